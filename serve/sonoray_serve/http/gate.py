"""What stands before the API: keys, admission, headers, and the last word on failures.

A plain ASGI layer, because it must act before a byte of the body is read and must cover a streamed
answer to its end, and because Starlette's own middleware base class would cut the path by which a
client's disconnect cancels the work.
"""

import logging
import math
import time
from collections.abc import Iterable
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
RECOGNIZE_PATH = "/v1/recognize"


_COME_AGAIN = (429, 503)
"""Statuses that carry Retry-After."""

_NEWEST = 0.2
"""Weight of the latest answer in the pace; half of it rests on the last three."""


def to_response(error: ApiError) -> JSONResponse:
    """The HTTP answer of an error: OpenAI's object and the headers that belong to its status."""
    headers = {401: {"WWW-Authenticate": "Bearer"}}.get(error.problem.status)
    return JSONResponse(error.body(), status_code=error.problem.status, headers=headers)


class Pace:
    """How fast answers come, which tells a refused client when to try again.

    An answer that took 8 s among 4 requests in work says that one leaves every 2 s. As many as are
    in work now have left after so many times that, and then there is room for sure.
    """

    def __init__(self, *, least_s: float, most_s: float) -> None:
        """Args: the bounds of what is told."""
        self._least_s = least_s
        self._most_s = most_s
        self._answer_s = 0.0

    def add(self, took_s: float, num_requests: float) -> None:
        """Take note of an answer, and of how many requests were in work beside it."""
        answer_s = took_s / num_requests
        weight = _NEWEST if self._answer_s else 1.0
        self._answer_s += weight * (answer_s - self._answer_s)

    def wait_s(self, num_requests: int) -> int:
        """Seconds after which the requests in work will have left."""
        wait_s = min(max(self._answer_s * num_requests, self._least_s), self._most_s)
        return math.ceil(wait_s)


class Gate:
    """ASGI layer around the API; every path but `/healthz` needs a key."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key_digests: Iterable[str] | None,
        max_requests: int,
        pace: Pace,
    ) -> None:
        """Args: `key_digests`, read for each request; None admits everyone (loopback only)."""
        self._app = app
        self._key_digests = key_digests
        self._max_requests = max_requests
        self._pace = pace
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse one request, and answer for what fails on its way."""
        if scope["type"] != "http":  # the lifespan; there is no websocket route
            await self._app(scope, receive, send)
            return
        started = is_answered = False
        began, beside = time.monotonic(), self._num_requests

        async def send_guarded(message: Message) -> None:
            nonlocal started, is_answered
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
                if message["status"] in _COME_AGAIN:
                    headers["Retry-After"] = str(self._pace.wait_s(self._num_requests))
                is_answered = message["status"] == 200
            await send(message)

        try:
            with contained(logger), suppress(ClientDisconnect):  # nobody is left to answer
                await self._admit(scope, receive, send_guarded)
        except ApiError as error:
            problem = error
        except InternalError:
            problem = ApiError(Problem.INTERNAL)
        else:
            if is_answered and self._is_work(scope):
                num_requests = 1 + (beside + self._num_requests) / 2
                self._pace.add(time.monotonic() - began, num_requests)
            return
        if not started:
            await to_response(problem)(scope, receive, send_guarded)

    @staticmethod
    def _path(scope: Scope) -> str:
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", ""))

    def _is_work(self, scope: Scope) -> bool:
        return self._path(scope) in (CHAT_PATH, RECOGNIZE_PATH)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._path(scope) != HEALTH_PATH and self._key_digests is not None:
            authorization = Headers(scope=scope).get("authorization")
            if not is_admitted(authorization, self._key_digests):
                raise ApiError(Problem.INVALID_API_KEY)
        if not self._is_work(scope):
            await self._app(scope, receive, send)
            return
        if self._num_requests >= self._max_requests:
            raise ApiError(Problem.BUSY)
        self._num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_requests -= 1
