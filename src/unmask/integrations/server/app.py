"""The server's routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from unmask import __version__
from unmask.errors import UnmaskError
from unmask.integrations.server.engine import BusyError, ClosedError, Engine, LateError
from unmask.integrations.server.guard import Guard, error
from unmask.integrations.server.metrics import Metrics
from unmask.integrations.server.protocol import MOST_STOPS, Asked, ChatRequest, CompletionRequest, LiveRequest
from unmask.integrations.server.service import Answer, Chunk, RefusedError, Served
from unmask.policies.base import LearnedPolicy

logger = logging.getLogger(__name__)
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

    app = FastAPI(title="unmask", version=__version__, lifespan=life, openapi_url="/openapi.json", docs_url=None)
    app.add_middleware(Guard, key=key, most_bytes=most_bytes, read_seconds=read_seconds)
    metrics = Metrics(engine)
    page = _page()

    async def answer(request: Request, asked: Asked, endpoint: str) -> Response:
        start = time.perf_counter()
        try:
            made = Answer(served, engine, asked)
            made.submit()
        except UnmaskError as e:
            return _failed(e, endpoint)
        if asked.stream or isinstance(asked, LiveRequest):
            chunks = made.live() if isinstance(asked, LiveRequest) else made.stream()
            lines = _lines(made, chunks, endpoint, start)
            return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        whole, left = asyncio.ensure_future(made.whole()), asyncio.ensure_future(_until_left(request))
        try:
            await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                return Response(status_code=499)  # nobody reads it
            found = whole.result()
        except UnmaskError as e:
            return _failed(e, endpoint)
        finally:
            whole.cancel()
            left.cancel()
            made.cancel()
        count(found["usage"], endpoint, start)
        return JSONResponse(found)

    async def _lines(made: Answer, chunks: AsyncIterator[Chunk], endpoint: str, start: float) -> AsyncIterator[str]:
        """Server-sent events; a client that leaves gives its rows up."""
        seen = False
        try:
            async for chunk in chunks:
                if not seen and endpoint != "live" and any(c.get("text") or c.get("delta") for c in chunk["choices"]):
                    seen = True
                    metrics.first.observe(time.perf_counter() - start)
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
            count(made.usage(), endpoint, start)
        except UnmaskError as e:
            status, body, _ = _told(e)
            metrics.requests.labels(endpoint, str(status)).inc()
            yield f"data: {json.dumps(body)}\n\n"
        finally:
            made.cancel()

    def count(usage: Chunk, endpoint: str, start: float) -> None:
        metrics.requests.labels(endpoint, "200").inc()
        metrics.prompt_tokens.inc(usage["prompt_tokens"])
        metrics.tokens.inc(usage["completion_tokens"])
        metrics.seconds.observe(time.perf_counter() - start)

    def _failed(e: UnmaskError, endpoint: str) -> Response:
        status, body, headers = _told(e)
        metrics.requests.labels(endpoint, str(status)).inc()
        return JSONResponse(body, status, headers=headers)

    @app.post("/v1/completions")
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        return await answer(request, asked, "completions")

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, asked: ChatRequest) -> Response:
        return await answer(request, asked, "chat")

    @app.post("/live")
    async def live(request: Request, asked: LiveRequest) -> Response:
        return await answer(request, asked, "live")

    @app.get("/v1/models")
    async def models() -> Chunk:
        return {"object": "list", "data": [_model(served)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != served.name:
            message = f"The model {name!r} does not exist: this server has {served.name!r}."
            return JSONResponse(error(message, 404, param="model", code="model_not_found"), 404)
        return JSONResponse(_model(served))

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"} if engine.alive else {"status": "stopped"}, 200 if engine.alive else 503)

    @app.get("/metrics")
    async def counts() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse)
    async def home() -> str:
        return page

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, e: RequestValidationError) -> Response:
        return _invalid(e)

    @app.exception_handler(HTTPException)
    async def other(request: Request, e: HTTPException) -> Response:
        return JSONResponse(error(str(e.detail), e.status_code), e.status_code, headers=e.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, e: Exception) -> Response:
        logger.exception("a request failed", exc_info=e)
        return JSONResponse(error("The server met an error of its own: see its log.", 500), 500)

    return app


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
        tables = policy.calibrations if isinstance(policy, LearnedPolicy) else ()
        curve = [{"speed": row.speed, "nfe": row.nfe} for row in tables[0].rows] if tables else []
        policies[name] = {"type": policy.type_name, "speed": policy.needs.speed, "calibration": curve}
    own = {"policies": policies, "max_tokens": served.region, "max_length": served.model.max_length}
    own["chat"] = served.model.has_chat_template
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "unmask"} | own
