"""A real browser, driven over its own protocol, and the service on a port for it."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from websockets.sync.client import ClientConnection, connect

from sonoray_serve.settings import ServeConfig

WAIT_S = 90.0  # the machine may be busy


class Browser:
    """One page of a headless Chromium (the DevTools protocol)."""

    def __init__(self, socket_: ClientConnection) -> None:
        self._socket = socket_
        self._number = 0
        self._events: deque[dict[str, Any]] = deque()
        self.asked: list[str] = []
        """Addresses that the page has asked."""
        self.errors: list[str] = []
        """What the page's console has complained about."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something, noting what it tells meanwhile."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=WAIT_S))
            if told.get("id") == self._number:
                assert "error" not in told, (method, told)
                result: dict[str, Any] = told["result"]
                return result
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        if told["method"] == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        if told["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        if told["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))

    def evaluate(self, code: str) -> Any:
        """What an expression gives in the page."""
        found = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, (code, found)
        return found["result"].get("value")

    def wait_for(self, code: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + WAIT_S
        while not self.evaluate(f"Boolean({code})"):
            shown = self.evaluate("document.getElementById('problem')?.textContent")
            assert time.monotonic() < deadline, f"{code} never was; the page says {shown!r}"
            time.sleep(0.05)

    def open(self, url: str, *, width: int, height: int) -> None:
        """Open a page of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=url)
        self.wait_for(
            "document.readyState === 'complete' && document.querySelector('h2')?.textContent"
        )

    def _centre(self, name: str) -> tuple[float, float]:
        element = f"document.querySelector({json.dumps(name)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getBoundingClientRect())"
        )
        return box[0], box[1]

    def click(self, name: str) -> None:
        """Click where an element is."""
        x, y = self._centre(name)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, name: str, text: str) -> None:
        """Replace a field's text as a person does."""
        element = f"document.querySelector({json.dumps(name)})"
        self.evaluate(f"{element}.focus(), {element}.select()")
        self.call("Input.insertText", text=text)
        self.evaluate(f"{element}.blur()")

    def drop(self, name: str, files: Sequence[Path]) -> None:
        """Drop files on an element."""
        x, y = self._centre(name)
        data = {"items": [], "files": [str(path) for path in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, path: Path) -> None:
        """Save the whole page as it is shown."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A Chromium of this test: its own profile, and no other address than this machine's."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium; run: make browser")
    profile = tmp_path / "profile"
    command = [
        *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        "--hide-scrollbars",
        *("--remote-debugging-port=0", "--remote-allow-origins=*", "--lang=en-US"),
        *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
        *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"),
        "about:blank",
    ]
    with (tmp_path / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_find_page(profile, process), max_size=None, proxy=None) as socket_:
            yield Browser(socket_)
    finally:
        process.terminate()
        process.wait()


def _find_page(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """The address at which the browser's one page is driven."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            pages = json.load(direct.open(f"http://127.0.0.1:{port}/json/list", timeout=5))
            return next(
                str(each["webSocketDebuggerUrl"]) for each in pages if each["type"] == "page"
            )
        except (OSError, StopIteration, IndexError):
            time.sleep(0.1)
    raise AssertionError("Chromium has not started")


@dataclass(frozen=True, kw_only=True)
class Served:
    """The service on a port."""

    url: str
    feedback: Path
    """Its table."""


@pytest.fixture
def served(make_api: Callable[..., FastAPI], tmp_path: Path) -> Iterator[Served]:
    """The application on a port of this machine, while the test runs."""
    config = ServeConfig(dicomweb="http://127.0.0.1:9/dicom-web")  # nobody is there
    app = make_api(workspace=str(tmp_path), config=config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Served(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            feedback=tmp_path / "feedback.db",
        )
        server.should_exit = True
        thread.join()
