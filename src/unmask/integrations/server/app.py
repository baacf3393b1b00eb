"""The server's routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from unmask import __version__
from unmask.errors import UnmaskError
from unmask.integrations.server.answers import Answer, Chunk
from unmask.integrations.server.engine import BusyError, ClosedError, Engine, LateError
from unmask.integrations.server.guard import Guard, error
from unmask.integrations.server.metrics import Metrics
from unmask.integrations.server.protocol import MOST_STOPS, Asked, ChatRequest, CompletionRequest, LiveRequest
from unmask.integrations.server.reading import RefusedError, Served
from unmask.policies.base import LearnedPolicy

logger = logging.getLogger(__name__)
LONG = 2**14  # bytes of a body
RETRY_AFTER = 1  # seconds that a client may wait before it asks again


def build_app(
    served: Served, engine: Engine, *, key: str | None = None, most_bytes: int = 2**20, read_seconds: float = 30.0
) -> FastAPI:
    """An ASGI application that serves a dLLM; it starts the engine, and stops it.

    Args:
        key: that requests must bear; None for no key.
        most_bytes: of a request's body.
        read_seconds: that a body may take to arrive.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start(asyncio.get_running_loop())
        yield
        engine.stop()

    app = FastAPI(title="unmask", version=__version__, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(served, engine)
    app.add_middleware(Guard, key=key, most_bytes=most_bytes, read_seconds=read_seconds, refused=routes.refused)
    for path, route in (
        ("/v1/completions", routes.completions),
        ("/v1/chat/completions", routes.chat_completions),
        ("/live", routes.live),
    ):
        app.add_api_route(path, route, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", routes.model, methods=["GET"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.counts, methods=["GET"], response_model=None)
    app.add_api_route("/", routes.home, methods=["GET"], response_class=HTMLResponse)
    app.add_exception_handler(RequestValidationError, routes.invalid)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(Exception, _fault)
    return app


class _Routes:
    """What each address answers."""

    def __init__(self, served: Served, engine: Engine) -> None:
        self.served, self.engine, self.metrics, self.page = served, engine, Metrics(engine), _page()

    async def completions(self, request: Request, asked: CompletionRequest) -> Response:
        return await self._answer(request, asked, "completions")

    async def chat_completions(self, request: Request, asked: ChatRequest) -> Response:
        return await self._answer(request, asked, "chat")

    async def live(self, request: Request, asked: LiveRequest) -> Response:
        return await self._answer(request, asked, "live")

    async def models(self) -> Chunk:
        return {"object": "list", "data": [_model(self.served)]}

    async def model(self, name: str) -> Response:
        if name != self.served.name:
            message = f"The model {name!r} does not exist: this server has {self.served.name!r}."
            return JSONResponse(error(message, 404, param="model", code="model_not_found"), 404)
        return JSONResponse(_model(self.served))

    async def health(self) -> Response:
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def counts(self) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def home(self) -> str:
        return self.page

    def refused(self, status: int) -> None:
        self.metrics.requests.labels("other", str(status)).inc()

    async def invalid(self, request: Request, e: Exception) -> Response:
        assert isinstance(e, RequestValidationError)
        endpoint = {"/v1/completions": "completions", "/v1/chat/completions": "chat", "/live": "live"}
        self.metrics.requests.labels(endpoint.get(request.url.path, "other"), "400").inc()
        return _invalid(e)

    async def _answer(self, request: Request, asked: Asked, endpoint: str) -> Response:
        start = time.perf_counter()
        try:
            if int(request.headers.get("content-length", LONG)) < LONG:
                made = Answer(self.served, self.engine, asked)
            else:  # it may take seconds to encode, in which others are to be answered
                made = await asyncio.to_thread(Answer, self.served, self.engine, asked)
            made.submit()
        except UnmaskError as e:
            return self._failed(e, endpoint)
        if asked.stream or isinstance(asked, LiveRequest):
            lines = self._lines(made, endpoint, start)
            return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        whole, left = asyncio.ensure_future(made.whole()), asyncio.ensure_future(_until_left(request))
        try:
            await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                self.metrics.requests.labels(endpoint, "499").inc()
                return Response(status_code=499)  # nobody reads it
            found = whole.result()
        except UnmaskError as e:
            return self._failed(e, endpoint)
        finally:
            whole.cancel()
            left.cancel()
            made.cancel()
        self._count(found["usage"], endpoint, start)
        return JSONResponse(found)

    async def _lines(self, made: Answer, endpoint: str, start: float) -> AsyncIterator[str]:
        """Server-sent events; a client that leaves gives its rows up."""
        seen, status = False, "499"
        try:
            async for chunk in made.live() if endpoint == "live" else made.stream():
                if not seen and any(
                    c.get("text") or c.get("delta", {}).get("content") for c in chunk.get("choices", ())
                ):
                    seen = True
                    self.metrics.first.observe(time.perf_counter() - start)
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
            status = "200"
        except UnmaskError as e:
            code, body, _ = _told(e)
            status = str(code)
            yield f"data: {json.dumps(body)}\n\n"
        finally:
            made.cancel()
            if status == "200":
                self._count(made.usage(), endpoint, start)
            else:
                self.metrics.requests.labels(endpoint, status).inc()

    def _count(self, usage: Chunk, endpoint: str, start: float) -> None:
        self.metrics.requests.labels(endpoint, "200").inc()
        self.metrics.prompt_tokens.inc(usage["prompt_tokens"])
        self.metrics.tokens.inc(usage["completion_tokens"])
        self.metrics.seconds.observe(time.perf_counter() - start)

    def _failed(self, e: UnmaskError, endpoint: str) -> Response:
        status, body, headers = _told(e)
        self.metrics.requests.labels(endpoint, str(status)).inc()
        return JSONResponse(body, status, headers=headers)


async def _other(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)
    return JSONResponse(error(f"{e.detail}: {request.method} {request.url.path}.", e.status_code), e.status_code)


async def _fault(request: Request, e: Exception) -> Response:
    logger.exception("a request failed", exc_info=e)
    return JSONResponse(error("The server met an error of its own: see its log.", 500), 500)


def _page() -> str:
    """The page at ``/``, in the report's colours."""
    here = Path(__file__).parent
    style = here.parents[1] / "evaluation" / "page_assets" / "page.css"
    text = (here / "page.html").read_text(encoding="utf-8")
    return text.replace("/*page.css*/", style.read_text(encoding="utf-8"))


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(e: UnmaskError) -> tuple[int, Chunk, dict[str, str]]:
    """Status, body and headers of what went wrong."""
    if isinstance(e, RefusedError):
        return e.status, error(str(e), e.status, param=e.param, code=e.code), {}
    for kind, status in ((BusyError, 429), (ClosedError, 503), (LateError, 504)):
        if isinstance(e, kind):
            again = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
            return status, error(str(e), status), again
    return 500, error(str(e), 500), {}


FORMS = {
    "prompt": "give a text, token ids, or a list of them",
    "stop": f"give a text, or up to {MOST_STOPS} of them",
    "messages": "give messages, each with a role and a content",
}


def _invalid(e: RequestValidationError) -> Response:
    first = e.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    param = where[0] if where else None
    told = first["msg"].removeprefix("Value error, ").rstrip(".")
    told = told[:1].lower() + told[1:]
    if first["type"] == "json_invalid" or param is None:
        reason = first.get("ctx", {}).get("error", "it is no object, or not sent as application/json")
        message = f"The body is not JSON ({reason}): send a JSON object."
        return JSONResponse(error(message, 400), 400)
    if isinstance(first.get("ctx", {}).get("error"), UnmaskError):
        return JSONResponse(error(str(first["ctx"]["error"]), 400, param=param), 400)
    if first["type"] == "extra_forbidden":
        told = "this server has no such parameter: leave it out"
    elif first["type"] == "missing":
        told = "is missing"
    elif param in FORMS:
        told = FORMS[param]
    return JSONResponse(error(f"{'.'.join(where[:1])}: {told}.", 400, param=param), 400)


def _model(served: Served) -> Chunk:
    policies = {}
    for name, policy in served.policies.items():
        curve = []
        if isinstance(policy, LearnedPolicy) and policy.calibrations:
            curve = [{"speed": row.speed, "nfe": row.nfe} for row in served.table(policy).rows]
        policies[name] = {"type": policy.type_name, "speed": policy.needs.speed, "calibration": curve}
    own = {"policies": policies, "max_tokens": served.region, "max_length": served.model.max_length}
    own["chat"] = served.model.has_chat_template
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "unmask"} | own
