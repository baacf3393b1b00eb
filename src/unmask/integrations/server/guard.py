"""What a request must pass before it is read: its key, its size, its pace."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def error(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Guard:
    """ASGI middleware: refuses before the body is read, or as soon as it is too long or too slow.

    Args:
        key: that requests under ``/v1`` and ``/live`` must bear; None for no key.
        most_bytes: of a body.
        read_seconds: that a body may take to arrive.
        refused: told the status of what is refused.
    """

    def __init__(
        self, app: App, *, key: str | None, most_bytes: int, read_seconds: float, refused: Callable[[int], None]
    ) -> None:
        self.app, self._key, self._most, self._seconds, self._refused = app, key, most_bytes, read_seconds, refused

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"].startswith(("/v1", "/live")) and not self._knows(headers):
            await self._refuse(send, 401, "Wrong or missing API key: send it as 'Authorization: Bearer KEY'.")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await self._too_long(send)
            return
        body, more = bytearray(), scope["method"] in ("POST", "PUT", "PATCH")
        try:
            async with asyncio.timeout(self._seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._most:
                        await self._too_long(send)
                        return
        except TimeoutError:
            await self._refuse(send, 408, f"The body did not arrive within {self._seconds:g} seconds.")
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)

    def _knows(self, headers: MutableMapping[bytes, bytes]) -> bool:
        assert self._key is not None
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key.encode())

    async def _too_long(self, send: Send) -> None:
        await self._refuse(send, 413, f"The body is longer than {self._most} bytes: send less.")

    async def _refuse(self, send: Send, status: int, message: str) -> None:
        """Answer, and close the connection: what is left of the body is not read."""
        self._refused(status)
        body = json.dumps(error(message, status)).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
