"""Waiting for a name: told apart are a name that is not there yet and a DNS that is silent."""

import socket
import threading
import time

import pytest

from sonoray_jobs.cluster.kubernetes import wait_for_name
from sonoray_jobs.cluster.kubernetes.wait_for_name import main, wait, wait_for_store


def answers(*errors: int | None):
    """A resolver that fails with these errors in turn, and then answers."""
    left = list(errors)

    def resolve(name: str, port: None) -> list[object]:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise socket.gaierror(error, "planted")
        return []

    return resolve


def test_a_name_that_comes_later_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    errors = [socket.EAI_NONAME] * 5 + [None]
    monkeypatch.setattr(socket, "getaddrinfo", answers(*errors))
    assert wait("head", silence_s=60, poll_s=0) == ""


def test_a_name_that_is_not_there_is_no_silence(monkeypatch: pytest.MonkeyPatch):
    errors = [socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_AGAIN, None]
    monkeypatch.setattr(socket, "getaddrinfo", answers(*errors))
    assert wait("head", silence_s=60, poll_s=0) == ""


def test_silence_ends_in_one_line_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(socket, "getaddrinfo", answers(socket.EAI_AGAIN))
    told = wait("head.svc", silence_s=0.01, poll_s=0)
    assert "no DNS server has answered for head.svc" in told
    assert "network.dns" in told
    monkeypatch.setenv("FQ_RAY_IP", "head.svc")
    monkeypatch.setattr(wait_for_name, "wait", lambda name: told)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"{told}\n"


def test_a_name_that_is_there_ends_the_waiting():
    assert wait("localhost") == ""


def test_a_store_that_comes_later_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert not wait_for_store("localhost", port=port, within_s=0.2, poll_s=0.05)

    def listen():
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(20)
            server.accept()[0].close()

    listening = threading.Thread(target=listen)
    listening.start()
    began = time.monotonic()
    assert wait_for_store("127.0.0.1", port=port, within_s=20, poll_s=0.05)
    assert time.monotonic() - began >= 0.2
    listening.join()


def test_name_and_store_are_waited_for_in_turn(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setenv("FQ_RAY_IP", "head.svc")
    monkeypatch.setattr(wait_for_name, "wait", lambda name: asked.append(name) or "")
    monkeypatch.setattr(wait_for_name, "wait_for_store", lambda name: asked.append(f"{name}:store"))
    main()
    assert asked == ["head.svc", "head.svc:store"]
