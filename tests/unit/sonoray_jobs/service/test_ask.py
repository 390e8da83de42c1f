"""What `ask` refuses, and how a reply is shown."""

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sonoray.errors import ConfigError, DataError, ServingError
from sonoray.images.decode import encode_png
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig, load_road
from sonoray_jobs.service.ask import run
from sonoray_jobs.service.listening import free_port
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import ImageUse, Reply, ask
from sonoray_serve.http.testing import random_study

TINY = load_road("tiny")
PICTURE = Picture(name="a.png", data=encode_png(random_study(1)[0]))


def run_ask(tmp_path: Path, *, road: RoadConfig = TINY, **options: Any) -> Reply:
    return run(
        workspace=Workspace.open(tmp_path / "workspace"),
        road=road,
        question="?",
        url=f"http://127.0.0.1:{free_port()}/v1",
        **options,
    )


def test_nobody_there_is_said_in_one_line():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ServingError, match=rf"no service answers at '{url}'.*sonoray serve"):
        ask("?", [PICTURE], url=url, api_key="k")


def test_a_service_that_is_silent_is_asked_once_and_not_called_absent():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(ServingError, match=rf"'{url}' has not answered within 0\.3 s.*log"):
            ask("?", [PICTURE], url=url, api_key="k", timeout_s=0.3)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_connection_that_breaks_is_said_and_no_service_is_called_absent():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cut() -> None:
            connection, _ = server.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            connection.close()

        thread = threading.Thread(target=cut)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(ServingError, match=rf"the connection to '{url}' broke.*ask again"):
            ask("?", [PICTURE], url=url, api_key="k", model="m")
        thread.join()


@pytest.mark.parametrize(
    "options",
    [
        {"images": []},
        {"images": [Path("a.png")], "study": "s"},
        {"images": [Path("a.png")], "study_uid": "1.2"},
        {"images": [], "study": "s", "study_uid": "1.2"},
    ],
)
def test_images_or_study_is_asked_for(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(DataError, match="either"):
        run_ask(tmp_path, **options)


def test_files_that_are_no_images_are_named(tmp_path: Path):
    missing, text = tmp_path / "missing.png", tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"missing\.png.*No such file"):
        run_ask(tmp_path, images=[missing])
    with pytest.raises(DataError, match=r"text\.png.*no PNG, JPEG, WebP, BMP or DICOM"):
        run_ask(tmp_path, images=[text])


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match=rf"image '{path}' is no file; give"):
            run_ask(tmp_path, images=[path])


def test_a_file_above_the_services_limit_is_named_and_not_read(tmp_path: Path):
    limit = TINY.serve.limits.max_image_bytes
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(5_000_000_000)  # a hole: it takes no disk, and reading it all the memory
    with pytest.raises(DataError, match=rf"large\.png' has 5,000,000,000 bytes.* {limit:,};"):
        run_ask(tmp_path, images=[large])
    lowered = load_road("tiny", [f"serve.limits.max_image_bytes={len(PICTURE.data)}"])
    just = tmp_path / "just.png"
    just.write_bytes(PICTURE.data)
    with pytest.raises(ServingError, match="no service answers"):
        run_ask(tmp_path, images=[just], road=lowered)


def test_unknown_dataset_and_open_key_file_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="no dataset 'phantom'"):
        run_ask(tmp_path, images=[], study="s")
    image, keys = tmp_path / "a.png", tmp_path / "keys"
    image.write_bytes(PICTURE.data)
    keys.write_text("a-key-that-is-long-enough")
    keys.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        run_ask(tmp_path, images=[image], api_key_file=keys)


def test_reply_shows_answer_images_and_notice():
    reply = Reply(
        question="左侧?",
        answer="是",
        finish_reason="length",
        images=(
            ImageUse(name="a.png", score=0.25, selected=False),
            ImageUse(name="b.png", score=0.75, selected=True),
            ImageUse(name="c.png", score=0.0, selected=False, transparent=True),
        ),
        notice="research only",
        model="m",
        digest="d",
        prompt_tokens=5,
        completion_tokens=1,
    )
    lines = reply.lines()
    assert lines[:2] == ["Q: 左侧?", "A: 是 [cut]"]
    assert "cut at 1 tokens" in lines[2]
    assert "serve.limits.default_tokens" in lines[2]
    whole = replace(reply, finish_reason="stop")
    assert "cut" not in "".join(whole.lines())
    assert "     25.0%  a.png" in lines
    assert "  *  75.0%  b.png" in lines
    assert "      0.0%  c.png (its transparent pixels shown over black)" in lines
    assert lines[-1] == "research only"
    follows = replace(reply, asked_first=(("有病灶吗?", "有"),))
    assert follows.lines()[:2] == ["first: 有病灶吗? 有", "Q: 左侧?"]
    assert json.loads(json.dumps(reply.to_json()))["images"][1]["selected"] is True
