"""`sonoray serve` and `sonoray ask` as a person starts them, and how the service ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_ultra.export.assistant import Assistant
from sonoray.images.decode import encode_png
from sonoray_jobs.service.listening import check_port, free_port
from sonoray_jobs.service.serve import new_api_key
from sonoray_serve.http.testing import QUESTION, random_study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SONORAY = [sys.executable, "-m", "sonoray_jobs.cli"]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


def wait_for(path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while text not in path.read_text(encoding="utf-8"):
        assert process.poll() is None, path.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, path.read_text(encoding="utf-8")
        time.sleep(0.2)


def test_serve_answers_ask_and_ends_on_sigterm(
    tmp_path: Path, model_folder: Path, assistant: Assistant
):
    port = free_port()
    keys, log = tmp_path / "keys", tmp_path / "serve.log"
    keys.touch(mode=0o600)
    keys.write_text(new_api_key())
    images = random_study(2)
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(encode_png(image))
    common = ["--workspace", str(tmp_path / "workspace"), "--api-key-file", str(keys)]
    command = [*SONORAY, "serve", "--model", str(model_folder), "--port", str(port), *common]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment()) as process,
    ):
        try:
            wait_for(log, f"serving llava-ultra at http://127.0.0.1:{port}/v1", process)
            url = ["--url", f"http://127.0.0.1:{port}/v1"]
            ask = [*SONORAY, "ask", *map(str, files), "--question", QUESTION, *url, *common]
            asked = subprocess.run([*ask, "--json"], capture_output=True, check=True)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
    reply = json.loads(asked.stdout)
    prompt = assistant.prepare(assistant.encode(images), [{"role": "user", "content": QUESTION}])
    assert reply["answer"] == "".join(assistant.stream(prompt, max_tokens=256))
    assert [image["name"] for image in reply["images"] if image["selected"]] == [
        str(files[index]) for index in prompt.selected
    ]
    assert status == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")
    check_port("127.0.0.1", port)
