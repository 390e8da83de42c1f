"""The last word on an answer whose ingress replica died while it went out.

The process that writes a stream ends it with an error event where anything else fails. Where that
process itself is killed nobody is left to write but the proxy before it: Ray Serve's own one, which
then cuts the connection, or answers 500 in plain words where nothing had gone out yet. This layer
of it writes the event, or answers 503 with Retry-After, in the API's shape.

Ray Serve takes it by the name of a function (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` in the
environment of every node: `VARIABLE`, `IMPORT_PATH`). HAProxy in its place, which reads none of
what it passes on, cuts the connection.
"""

import json
from typing import TYPE_CHECKING, Any

from sonoray_serve.problems import ApiError, Problem

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = "sonoray_serve.proxy.last_word:layers"

RETRY_AFTER_S = 5
"""A replica of the ingress is up again after some seconds."""


def layers() -> "list[Middleware]":
    """Called by Ray Serve when a proxy starts."""
    from starlette.middleware import Middleware

    return [Middleware(LastWord)]


class LastWord:
    """ASGI layer that ends what nobody else ends any more."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, and look at how its answer ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = is_stream = is_over = False

        async def watch(message: "Message") -> None:
            nonlocal is_started, is_stream, is_over
            if message["type"] == "http.response.start":
                is_started = True
                is_stream = _is_event_stream(message)
            elif message["type"] == "http.response.body":
                is_over = not message.get("more_body", False)
            await send(message)

        await self._app(scope, receive, watch)
        body = json.dumps(ApiError(Problem.UNAVAILABLE).body(), ensure_ascii=False).encode()
        if not is_started:
            headers = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "retry-after": str(RETRY_AFTER_S),
                "cache-control": "no-store",
            }
            await send(
                {
                    "type": "http.response.start",
                    "status": Problem.UNAVAILABLE.status,
                    "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
                }
            )
            await send(_last(body))
        elif is_stream and not is_over:
            await send(_last(b"data: " + body + b"\n\n"))


def _is_event_stream(message: "Message") -> bool:
    headers = {bytes(key).lower(): bytes(value) for key, value in message.get("headers", ())}
    return headers.get(b"content-type", b"").startswith(b"text/event-stream")


def _last(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": False}
