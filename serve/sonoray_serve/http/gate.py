"""What stands before the API: keys, admission, headers, and the last word on failures.

A plain ASGI layer, because it must act before a byte of the body is read and must cover a streamed
answer to its end, and because Starlette's own middleware base class would cut the path by which a
client's disconnect cancels the work.
"""

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonoray_serve.http.request_counts import IngressMeters
from sonoray_serve.keys.audit_log import AuditLog
from sonoray_serve.keys.auth import check_terms, find_key
from sonoray_serve.keys.key_limits import KeyLimits
from sonoray_serve.problems import ApiError, InternalError, Problem, contained
from sonoray_serve.settings import KeyTerms

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
OPEN_PATHS = frozenset({HEALTH_PATH, "/health", READY_PATH})
"""Paths that need no key: they tell whether a service is there, and no more."""
CHAT_PATH = "/v1/chat/completions"
RECOGNIZE_PATH = "/v1/recognize"
FEEDBACK_PATH = "/v1/feedback"
REPORTS_PATH = "/v1/reports"
WORK_PATHS = frozenset(
    {
        *(CHAT_PATH, "/v1/completions", "/v1/embeddings", RECOGNIZE_PATH),
        *(FEEDBACK_PATH, REPORTS_PATH),
    }
)
"""Paths whose requests are counted against `max_requests`."""

ANSWERED_BY = "sonoray.answered_by"
"""Where a request's scope says who gave its answer, `model` or `student`."""

_COME_AGAIN = (429, 503)
"""Statuses that carry Retry-After."""

_NEWEST = 0.2
"""Weight of the latest answer in the pace; half of it rests on the last three."""


def to_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The HTTP answer of an error: OpenAI's object and the headers that belong to its status."""
    if error.problem.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    if error.problem is Problem.KEY_PER_MINUTE:  # that key's own wait, not the service's
        headers = {"Retry-After": error.detail}
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


@dataclass(kw_only=True, slots=True)
class House:
    """The requests in work of one ingress replica, and whether more are let in."""

    num_requests: int = 0
    is_closing: bool = False
    """Whether the service is about to end: what is in work is finished, and nothing else begins."""


class Gate:
    """ASGI layer around the API; every path needs a key but the open ones."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key_digests: Iterable[str] | None,
        key_terms: Mapping[str, KeyTerms] | None = None,
        audit: AuditLog | None = None,
        max_requests: int,
        pace: Pace,
        meters: IngressMeters,
        house: House | None = None,
        key_limits: KeyLimits | None = None,
        open_paths: Collection[str] = OPEN_PATHS,
    ) -> None:
        """Stand before an application.

        Args:
            app: the application.
            key_digests: of the keys, read for each request; None admits everyone (loopback only).
            key_terms: by digest, of the keys that have some.
            audit: is told of every request, where there is one.
            max_requests: in work at once.
            pace: of the answers.
            meters: count every request.
            house: is told who is in; one of its own where nobody else asks.
            key_limits: what one key may take of the service.
            open_paths: need no key.
        """
        self._app = app
        self._key_digests = key_digests
        self._key_terms = key_terms or {}
        self._audit = audit
        self._max_requests = max_requests
        self._pace = pace
        self._meters = meters
        self._house = house or House()
        self._key_limits = key_limits or KeyLimits(per_minute=0, at_once=0)
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse one request, and answer for what fails on its way."""
        if scope["type"] != "http":  # the lifespan; there is no websocket route
            await self._app(scope, receive, send)
            return
        started = has_body = False
        # such a client may keep its body back for good once it has an answer, and the next request
        # on the connection would be taken for it (RFC 9110, 10.1.1)
        holds_back = Headers(scope=scope).get("expect", "").lower() == "100-continue"
        status = 499  # nobody was left to answer
        began, beside = time.monotonic(), self._house.num_requests

        async def send_guarded(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
                if message["status"] in _COME_AGAIN and "Retry-After" not in headers:
                    headers["Retry-After"] = str(self._pace.wait_s(self._house.num_requests))
                if holds_back and not has_body:
                    headers["Connection"] = "close"
                status = message["status"]
            await send(message)

        async def receive_noted() -> Message:
            nonlocal has_body
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                has_body = True
            return message

        problem: ApiError | None = None
        try:
            with contained(logger), suppress(ClientDisconnect):
                await self._admit(scope, receive_noted, send_guarded)
        except ApiError as error:
            problem = error
        except InternalError:
            problem = ApiError(Problem.INTERNAL)
        finally:
            took_s = time.monotonic() - began
            if problem is None and status == 200 and self._is_work(scope):
                self._pace.add(took_s, 1 + (beside + self._house.num_requests) / 2)
            if problem is None or started:
                self._note(scope, status, took_s)
        if problem is not None and not started:
            await to_response(problem)(scope, receive, send_guarded)
            self._note(scope, problem.problem.status, took_s)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        """Count a request, and write who made it into the audit log."""
        path = self._meters.add(self._path(scope), status, took_s)
        answered_by: str = scope.get(ANSWERED_BY, "") if status == 200 else ""
        if answered_by:
            self._meters.add_answer(answered_by)
        if self._audit is not None:
            self._audit.add(
                key_digest=scope.get("sonoray.key", ""),
                path=path,
                status=status,
                took_s=took_s,
                answered_by=answered_by,
            )

    @staticmethod
    def _path(scope: Scope) -> str:
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", ""))

    def _is_work(self, scope: Scope) -> bool:
        return self._path(scope) in WORK_PATHS

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._path(scope) not in self._open_paths and self._key_digests is not None:
            authorization = Headers(scope=scope).get("authorization")
            key = find_key(authorization, self._key_digests)
            if key is None:
                raise ApiError(Problem.INVALID_API_KEY)
            scope["sonoray.key"] = key
            today = datetime.now(UTC).date()
            terms = self._key_terms.get(key) or KeyTerms()
            check_terms(terms, self._path(scope), today)
            scope["sonoray.opens_studies"] = "studies" in terms.scopes
        else:  # nobody has keys here, or the path asks for nothing that needs one
            scope["sonoray.opens_studies"] = self._key_digests is None
        path = self._path(scope)
        if self._house.is_closing and (path in WORK_PATHS or path == READY_PATH):
            raise ApiError(Problem.UNAVAILABLE)
        if path not in WORK_PATHS:
            scope["sonoray.num_requests"] = self._house.num_requests  # `/metrics` tells it
            await self._app(scope, receive, send)
            return
        if self._audit is not None and self._audit.is_broken:
            raise ApiError(Problem.UNAVAILABLE)
        if self._house.num_requests >= self._max_requests:
            raise ApiError(Problem.BUSY)
        owner: str = scope.get("sonoray.key", "")
        self._key_limits.enter(owner, self._key_terms.get(owner))
        self._house.num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._house.num_requests -= 1
            self._key_limits.leave(owner)
