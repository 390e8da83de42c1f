"""What a client meets where an answer has no end of its own, over a real connection."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn

from sonoray_serve.proxy.last_word import LastWord, layers

EVENT = b'data: {"choices": []}\n\n'


async def dies(scope: Any, receive: Any, send: Any) -> None:
    """Ends as Ray Serve's proxy does when the replica under a request is killed."""
    path = scope["path"]
    if path == "/nothing":
        return
    kind = b"text/event-stream; charset=utf-8" if path != "/json" else b"application/json"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(start)
    whole = path == "/whole"
    await send({"type": "http.response.body", "body": EVENT, "more_body": not whole})


@contextmanager
def listening(app: Any) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def get(url: str) -> httpx2.Response:
    return httpx2.get(url, trust_env=False, timeout=20)


def test_a_stream_that_breaks_off_ends_with_an_error_event():
    (layer,) = layers()
    with listening(layer.cls(dies)) as url:
        lines = get(f"{url}/stream").text.split("\n\n")
        assert lines[0] == EVENT.decode().strip()
        assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == "unavailable"
        assert lines[2:] == [""]
        assert get(f"{url}/whole").content == EVENT
        with pytest.raises(httpx2.RemoteProtocolError):  # half a JSON is no JSON
            get(f"{url}/json")


def test_an_answer_that_never_began_is_told_to_come_again():
    with listening(LastWord(dies)) as url:
        answer = get(f"{url}/nothing")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["error"]["code"] == "unavailable"
    with listening(dies) as url:  # without the layer
        assert get(f"{url}/nothing").status_code == 500
