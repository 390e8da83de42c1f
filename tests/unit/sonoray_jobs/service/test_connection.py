"""A service that answers nonsense, or is none of ours, is said in one line."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from sonoray.errors import ConfigError, ServingError
from sonoray.images.decode import encode_png
from sonoray_jobs.evaluation.roles.calls import Endpoint
from sonoray_jobs.service.connection import Connection, ServedModel, connected, find_model
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import put, study_vector
from sonoray_serve.http.testing import random_study

PICTURES = [Picture(name="a", data=encode_png(random_study(1)[0]))]
MODEL = ServedModel(name="m", context_length=64, digest="d")

Answering = Callable[[bytes, str], Connection]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A connection to a server that always gives one answer."""
    body, kind = [b""], ["application/json"]

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", kind[0])
            self.send_header("Content-Length", str(len(body[0])))
            self.end_headers()
            self.wfile.write(body[0])

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connected(f"http://127.0.0.1:{server.server_port}/v1", "k", 10) as connection:

            def give(answer: bytes, media_type: str = "application/json") -> Connection:
                body[0], kind[0] = answer, media_type
                return connection

            yield give
        server.shutdown()
        thread.join()


def chat(**sonoray: Any) -> bytes:
    message = {"role": "assistant", "content": "?"}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            **sonoray,
        }
    ).encode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "text/html"),
        (b"{", "application/json"),
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (chat(), "application/json"),
        (chat(sonoray={}), "application/json"),
        (chat(sonoray={"images": [{}]}), "application/json"),
    ],
)
def test_an_answer_that_is_none_is_said(answering: Answering, body: bytes, kind: str):
    connection = answering(body, kind)
    for ask in (
        lambda: put(connection, "?", PICTURES, model="m"),
        lambda: study_vector(connection, PICTURES, model="m"),
        lambda: find_model(connection),
    ):
        with pytest.raises(
            ServingError, match=r"no .*service|serves no model|this is none"
        ) as told:
            ask()
        assert "\n" not in str(told.value)


def test_a_choice_must_be_one_of_the_options(answering: Answering):
    known = {"images": [], "notice": "", "model": "m", "digest": "d"}
    connection = answering(chat(sonoray=known))
    endpoint = Endpoint(connection=connection, model=MODEL)
    with pytest.raises(ServingError, match="answers a question of 2 options with none of them"):
        endpoint.choose("?", PICTURES, ("a", "b"))


def test_a_student_is_not_taken_for_the_model(answering: Answering):
    known = {"images": [], "notice": "", "model": "m", "digest": "d", "answered_by": "student"}
    endpoint = Endpoint(connection=answering(chat(sonoray=known)), model=MODEL)
    with pytest.raises(ServingError, match=r"has its student answer .* serve\.student_budget"):
        endpoint.choose("?", PICTURES, ("a", "b"))


def test_a_model_without_context_or_digest_is_not_used(answering: Answering):
    listed = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1}]}
    connection = answering(json.dumps(listed).encode())
    with pytest.raises(ServingError, match="does not say the context and digest of model 'm'"):
        find_model(connection)
    with pytest.raises(ServingError, match="serves no model 'other'; it has m"):
        find_model(connection, "other")
    listed["data"][0] |= {"max_model_len": 64, "digest": "d"}
    assert find_model(answering(json.dumps(listed).encode())) == MODEL


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://svc:8000", "http://svc:8000/v1"),
        ("http://svc:8000/", "http://svc:8000/v1"),
        ("http://svc:8000/v1", "http://svc:8000/v1"),
        ("https://gate/ultrasound/v1/", "https://gate/ultrasound/v1/"),
    ],
)
def test_the_address_of_a_service_is_enough(given: str, asked: str) -> None:
    with connected(given, "k") as connection:
        assert connection.url == asked
        assert str(connection.client.base_url).rstrip("/") == asked.rstrip("/")


@pytest.mark.parametrize(
    "given", ["", "localhost:8000", "ftp://h/v1", "http://", "http://h:x/v1", "/v1", "file:///v1"]
)
def test_what_is_no_url_is_refused(given):
    with pytest.raises(ConfigError, match="is no http or https URL"), connected(given, "k"):
        pass
