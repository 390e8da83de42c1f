"""Admission, keys and headers before the application, whatever the application does."""

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sonoray_serve.http.gate import CHAT_PATH, Gate, House, Pace
from sonoray_serve.http.request_counts import IngressMeters
from sonoray_serve.keys.audit_log import AuditLog
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.keys.log_chain import verify
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import KeyTerms

KEY = "gate-test-key-0123456789"
ADMITTED = {"Authorization": f"Bearer {KEY}"}


class Application:
    """Answers when it is told to, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.go_on = asyncio.Event()
        self.num_started = 0
        self.failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_started += 1
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        await PlainTextResponse("done")(scope, receive, send)


def client(application: Application, **options: Any) -> httpx2.AsyncClient:
    gate = Gate(
        application,
        **{
            "key_digests": (digest_key(KEY),),
            "max_requests": 1,
            "pace": Pace(least_s=7, most_s=60),
            "meters": IngressMeters([CHAT_PATH]),
            **options,
        },
    )
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=gate), base_url="http://t")


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once it has the body."""
    while (await receive()).get("more_body"):
        pass
    await PlainTextResponse("done")(scope, receive, send)


def told(connection: socket.socket, *, has: bytes) -> bytes:
    """What comes on a connection, until it has these bytes."""
    came = b""
    while has not in came:
        came += connection.recv(65_536) or pytest.fail(f"closed after {came!r}")
    return came


def test_a_body_that_is_held_back_is_asked_for_or_the_connection_ends():
    gate = Gate(
        reads,
        key_digests=(digest_key(KEY),),
        max_requests=1,
        pace=Pace(least_s=7, most_s=60),
        meters=IngressMeters([CHAT_PATH]),
    )
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(gate, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=20) as connection:
                admitted = f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode()
                for _ in range(2):  # the connection is as good as before
                    connection.sendall(admitted)
                    assert told(connection, has=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    connection.sendall(b"hello")
                    answer = told(connection, has=b"done")
                    assert answer.startswith(b"HTTP/1.1 200")
                    assert b"connection: close" not in answer.lower()
                connection.sendall(f"{head}\r\n".encode())  # without a key, and without a body
                answer = told(connection, has=b"invalid_api_key")
                assert answer.startswith(b"HTTP/1.1 401")
                assert b"connection: close" in answer.lower()
                while connection.recv(65_536):  # to its end
                    pass
        finally:
            server.should_exit = True
            thread.join()


def test_full_house_is_refused_at_once_and_open_again_afterwards():
    async def crowd() -> None:
        application = Application()
        async with client(application) as http:
            first = asyncio.create_task(http.post(CHAT_PATH, headers=ADMITTED))
            while not application.num_started:
                await asyncio.sleep(0)
            refused = await http.post(CHAT_PATH, headers=ADMITTED)
            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "7"
            assert refused.json()["error"]["code"] == "busy"
            assert application.num_started == 1
            application.go_on.set()
            assert (await first).status_code == 200
            assert (await http.post(CHAT_PATH, headers=ADMITTED)).status_code == 200

    asyncio.run(crowd())


def test_a_house_that_closes_finishes_what_is_in_and_lets_nobody_else_in():
    async def leave() -> None:
        application, house = Application(), House()
        async with client(application, house=house, max_requests=4) as http:
            first = asyncio.create_task(http.post(CHAT_PATH, headers=ADMITTED))
            while not application.num_started:
                await asyncio.sleep(0)
            house.is_closing = True
            for refused in (
                await http.post(CHAT_PATH, headers=ADMITTED),
                await http.get("/readyz"),
            ):
                assert refused.status_code == 503
                assert refused.headers["Retry-After"] == "7"
            assert house.num_requests == application.num_started == 1
            application.go_on.set()
            assert (await first).status_code == 200
            assert house.num_requests == 0

    asyncio.run(leave())


def test_who_is_refused_is_told_when_those_in_work_will_have_left():
    pace = Pace(least_s=2, most_s=120)
    assert pace.wait_s(32) == 2  # nothing is known yet
    pace.add(8.0, 4)
    assert pace.wait_s(32) == 64
    for _ in range(50):
        pace.add(0.5, 1)
    assert pace.wait_s(32) == 17  # 16 s and a rest of what was before
    assert pace.wait_s(1) == 2
    for _ in range(50):
        pace.add(600.0, 1)
    assert pace.wait_s(32) == 120


def test_the_pace_is_that_of_answers():
    async def crowd() -> list[str]:
        application = Application()
        pace = Pace(least_s=0, most_s=60)
        told = []
        async with client(application, max_requests=1, pace=pace) as http:
            for seconds in (0.3, 0.3):
                application.go_on.clear()
                first = asyncio.create_task(http.post(CHAT_PATH, headers=ADMITTED))
                await asyncio.sleep(seconds)
                refused = await http.post(CHAT_PATH, headers=ADMITTED)
                told.append(refused.headers["Retry-After"])
                application.go_on.set()
                await first
        return told

    assert asyncio.run(crowd()) == ["0", "1"]


def test_a_key_that_asks_too_often_is_told_when_and_others_are_served():
    async def crowd() -> None:
        application = Application()
        application.go_on.set()
        terms = {digest_key(KEY): KeyTerms(per_minute=1)}
        options = {"key_digests": (digest_key(KEY), digest_key("other-key-0123456789"))}
        async with client(application, key_terms=terms, **options) as http:
            assert (await http.post(CHAT_PATH, headers=ADMITTED)).status_code == 200
            refused = await http.post(CHAT_PATH, headers=ADMITTED)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "key_per_minute"
            assert 58 <= int(refused.headers["Retry-After"]) <= 60
            assert (await http.get("/v1/models", headers=ADMITTED)).status_code == 200
            other = {"Authorization": "Bearer other-key-0123456789"}
            assert (await http.post(CHAT_PATH, headers=other)).status_code == 200

    asyncio.run(crowd())


def test_a_key_may_have_so_many_at_once_and_gets_its_places_back():
    async def crowd() -> None:
        application = Application()
        terms = {digest_key(KEY): KeyTerms(at_once=1)}
        async with client(application, key_terms=terms, max_requests=9) as http:
            first = asyncio.create_task(http.post(CHAT_PATH, headers=ADMITTED))
            while not application.num_started:
                await asyncio.sleep(0)
            refused = await http.post(CHAT_PATH, headers=ADMITTED)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "key_at_once")
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            application.go_on.set()
            assert (await http.post(CHAT_PATH, headers=ADMITTED)).status_code == 200

    asyncio.run(crowd())


def test_a_cancelled_request_gives_its_place_back():
    async def leave() -> None:
        application = Application()
        async with client(application) as http:
            first = asyncio.create_task(http.post(CHAT_PATH, headers=ADMITTED))
            while not application.num_started:
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            application.go_on.set()
            assert (await http.post(CHAT_PATH, headers=ADMITTED)).status_code == 200

    asyncio.run(leave())


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/models", "/openapi.json", "/", "/healthz/x"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-key-0123456789"}])
def test_without_a_key_nothing_is_reached(path: str, headers: dict[str, str]):
    async def knock() -> None:
        application = Application()
        async with client(application) as http:
            refused = await http.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert application.num_started == 0

    asyncio.run(knock())


def test_health_needs_no_key_and_no_digests_admit_everyone():
    async def knock() -> None:
        application = Application()
        application.go_on.set()
        async with client(application) as http:
            answer = await http.get("/healthz")
        assert answer.text == "done"
        assert answer.headers["Cache-Control"] == "no-store"
        async with client(application, key_digests=None) as http:
            assert (await http.get("/v1/models")).status_code == 200
        async with client(application, key_digests=()) as http:
            assert (await http.get("/v1/models", headers=ADMITTED)).status_code == 401

    asyncio.run(knock())


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (RuntimeError("patient-name-canary"), 500),
        (ApiError(Problem.UNAVAILABLE), 503),
    ],
)
def test_what_fails_is_answered_with_a_fixed_text(
    failure: Exception, status: int, caplog: pytest.LogCaptureFixture
):
    async def fail() -> httpx2.Response:
        application = Application(failure)
        application.go_on.set()
        async with client(application) as http:
            return await http.post(CHAT_PATH, headers=ADMITTED)

    answer = asyncio.run(fail())
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "canary" not in json.dumps(answer.json()) + caplog.text


def test_keys_are_held_to_their_terms_and_every_request_is_logged(tmp_path: Path):
    terms = {digest_key(KEY): KeyTerms(scopes=("models",))}
    audit = AuditLog(tmp_path)

    async def ask() -> list[int]:
        application = Application()
        application.go_on.set()
        async with client(application, key_terms=terms, audit=audit) as http:
            answers = [
                await http.get("/v1/models", headers=ADMITTED),
                await http.post(CHAT_PATH, headers=ADMITTED),
                await http.post(CHAT_PATH),
                await http.get("/patient-canary", headers=ADMITTED),
            ]
            assert application.num_started == 1
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 403, 401, 403]
    (path,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    key = digest_key(KEY)[:12]
    assert [(line["key"], line["path"], line["status"]) for line in lines] == [
        (key, "other", 200),
        (key, CHAT_PATH, 403),
        ("", CHAT_PATH, 401),
        (key, "other", 403),
    ]
    assert verify(tmp_path).exit_code == 0


def test_a_service_that_cannot_write_its_log_takes_no_work(tmp_path: Path):
    audit = AuditLog(tmp_path)
    whole = audit._file
    audit._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - no space left on it

    async def ask() -> int:
        application = Application()
        application.go_on.set()
        async with client(application, audit=audit) as http:
            return (await http.post(CHAT_PATH, headers=ADMITTED)).status_code

    assert asyncio.run(ask()) == 200  # what had begun
    assert asyncio.run(ask()) == 503
    audit._file.close()
    audit._file = whole
    assert asyncio.run(ask()) == 503  # and with that it is written again
    assert asyncio.run(ask()) == 200
