"""An application is held back until the proxy answers and its Pod was probed; not without a Pod."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sonoray_serve.replicas import pod_ready
from sonoray_serve.replicas.pod_ready import VARIABLE, wait_for_pod


@pytest.fixture(autouse=True)
def _new_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pod_ready, "MARK", tmp_path / "mark")


@pytest.fixture
def proxy() -> Iterator[tuple[HTTPServer, list[int]]]:
    """A proxy that is not ready at the first two looks."""
    given: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/-/healthz"
            given.append(503 if len(given) < 2 else 200)
            self.send_response(given[-1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, given
        server.shutdown()
        thread.join()


def test_it_waits_for_the_proxy_and_then_for_the_probe(
    proxy: tuple[HTTPServer, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, given = proxy
    monkeypatch.setenv(VARIABLE, "0.3")
    began = time.monotonic()
    wait_for_pod(("127.0.0.1", server.server_port), poll_s=0.01)
    assert given == [503, 503, 200]
    assert time.monotonic() - began >= 0.3
    wait_for_pod(("127.0.0.1", server.server_port), poll_s=0.01)
    assert len(given) == 3  # a later replica of the Pod waits for nothing


def test_a_proxy_that_never_comes_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "60")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        free = server.server_port
    began = time.monotonic()
    wait_for_pod(("127.0.0.1", free), longest_s=0.05, poll_s=0.01)
    assert time.monotonic() - began < 30  # for no probe of a Pod
    assert f"no proxy answers at 127.0.0.1:{free}" in caplog.text
    assert not pod_ready.MARK.exists()  # the next replica looks again


def test_without_a_pod_nothing_is_waited_for(proxy: tuple[HTTPServer, list[int]]) -> None:
    server, given = proxy
    wait_for_pod(("127.0.0.1", server.server_port))
    assert given == []
