"""What stands before the API: keys, admission, headers, and the last word on failures.

A plain ASGI layer, because it must act before a byte of the body is read and must cover a streamed
answer to its end, and because Starlette's own middleware base class would cut the path by which a
client's disconnect cancels the work.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonoray_serve.http.auth import is_admitted
from sonoray_serve.problems import ApiError, InternalError, Problem, contained

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"
CHAT_PATH = "/v1/chat/completions"


def to_response(error: ApiError, retry_after_s: int) -> JSONResponse:
    """The HTTP answer of an error: OpenAI's object and the headers that belong to its status."""
    headers = {
        429: {"Retry-After": str(retry_after_s)},
        503: {"Retry-After": str(retry_after_s)},
        401: {"WWW-Authenticate": "Bearer"},
    }.get(error.problem.status)
    return JSONResponse(error.body(), status_code=error.problem.status, headers=headers)


class Gate:
    """ASGI layer around the API; every path but `/healthz` needs a key."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key_digests: Sequence[str] | None,
        max_requests: int,
        retry_after_s: int,
    ) -> None:
        """Args: `key_digests` of None admits everyone (loopback only)."""
        self._app = app
        self._key_digests = key_digests
        self._max_requests = max_requests
        self._retry_after_s = retry_after_s
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse one request, and answer for what fails on its way."""
        if scope["type"] != "http":  # the lifespan; there is no websocket route
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            with contained(logger), suppress(ClientDisconnect):  # nobody is left to answer
                await self._admit(scope, receive, send_guarded)
        except ApiError as error:
            problem = error
        except InternalError:
            problem = ApiError(Problem.INTERNAL)
        else:
            return
        if not started:
            await to_response(problem, self._retry_after_s)(scope, receive, send_guarded)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path != HEALTH_PATH and self._key_digests is not None:
            authorization = Headers(scope=scope).get("authorization")
            if not is_admitted(authorization, self._key_digests):
                raise ApiError(Problem.INVALID_API_KEY)
        if path != CHAT_PATH:
            await self._app(scope, receive, send)
            return
        if self._num_requests >= self._max_requests:
            raise ApiError(Problem.BUSY)
        self._num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_requests -= 1
