"""`sonoray serve` and `sonoray ask` as a person starts them, and how the service ends."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from llava_ultra.export.assistant import Assistant
from sonoray.images.decode import encode_png
from sonoray_jobs.service.listening import check_port, free_port
from sonoray_jobs.service.serve import new_api_key
from sonoray_serve.http.gate import CHAT_PATH
from sonoray_serve.http.testing import QUESTION, chat_body, random_study

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


def end_among_answers(port: int, key: str, process: subprocess.Popen[bytes]) -> set[int]:
    """End the service while it answers more than it decodes at once; gives all statuses."""
    headers = {"Authorization": f"Bearer {key}"}
    body = chat_body(random_study(1), max_tokens=200, ignore_eos=True)
    url = f"http://127.0.0.1:{port}"
    with (
        httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(24) as pool,
    ):
        answers = [pool.submit(http.post, CHAT_PATH, json=body) for _ in range(24)]
        while not any("in_work 24" in line for line in http.get("/metrics").text.splitlines()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while http.get("/readyz").status_code == 200:
            time.sleep(0.01)
        assert http.post(CHAT_PATH, json=body).status_code == 503
        return {answer.result().status_code for answer in answers}


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
            statuses = end_among_answers(port, keys.read_text(), process)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
    assert statuses == {200}  # what was in work was finished
    reply = json.loads(asked.stdout)
    prompt = assistant.prepare(assistant.encode(images), [{"role": "user", "content": QUESTION}])
    assert reply["answer"] == "".join(assistant.stream(prompt, max_tokens=256))
    assert [image["name"] for image in reply["images"] if image["selected"]] == [
        str(files[index]) for index in prompt.selected
    ]
    assert status == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")
    check_port("127.0.0.1", port)
