"""Models come, go and change places in a running service, and no request fails by it."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llava_ultra.export.assistant import Assistant, load_assistant
from llava_ultra.testing import tiny_artifact
from sonoray.tracking.registry import manifest_digest
from sonoray_serve.http.testing import QUESTION, chat_body, random_study

pytestmark = pytest.mark.ray

IMAGES = random_study(2)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("others")
    for seed, name in ((1, "breast"), (2, "next")):
        tiny_artifact(root / name, lively=True, seed=seed)
    shutil.copytree(root / "next", root / "bad")
    path = root / "bad" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    return {path.name: path for path in root.iterdir()}


def alone(assistant: Assistant) -> str:
    messages = [{"role": "user", "content": QUESTION}]
    prompt = assistant.prepare(assistant.encode(IMAGES), messages)
    return "".join(assistant.stream(prompt, max_tokens=16))


def ask(client: openai.OpenAI, model: str) -> tuple[str, str]:
    answer = client.chat.completions.create(**chat_body(IMAGES, model=model))
    return answer.choices[0].message.content or "", answer.model_extra["sonoray"]["digest"]


@pytest.fixture
def busy(client: openai.OpenAI) -> Iterator[list[Any]]:
    """Asks all the time, one request after the other, and notes what comes."""
    came: list[Any] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                came.append(ask(client, "llava-ultra"))
            except openai.APIError as error:
                came.append(error)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    yield came
    stop.set()
    thread.join(60)


def test_models_come_go_and_change_places_and_no_request_fails(
    running: Any,
    client: openai.OpenAI,
    busy: list[Any],
    others: dict[str, Path],
    model_folder: Path,
    assistant: Assistant,
    caplog: pytest.LogCaptureFixture,
):
    keeper = running.service.keeper
    first, following = alone(assistant), alone(load_assistant(others["next"]))
    breast = alone(load_assistant(others["breast"]))
    assert len({first, following, breast}) == 3
    assert [model.id for model in client.models.list()] == ["llava-ultra"]

    running.adapters.write_text(f'breast = "{others["breast"]}"\n')
    keeper.look()
    assert {model.id for model in client.models.list()} == {"llava-ultra", "llava-ultra:breast"}
    for _ in range(3):  # beside the requests for the other one
        text, digest = ask(client, "llava-ultra:breast")
        assert (text, digest) == (breast, manifest_digest(others["breast"]))

    running.current.unlink()
    running.current.symlink_to(others["bad"])
    keeper.look()
    assert "models stay as they are" in caplog.text
    assert ask(client, "llava-ultra") == (first, manifest_digest(model_folder))

    running.current.unlink()
    running.current.symlink_to(others["next"])
    keeper.look()
    assert ask(client, "llava-ultra") == (following, manifest_digest(others["next"]))

    running.current.unlink()
    running.current.symlink_to(model_folder)
    running.adapters.write_text("")
    keeper.look()
    assert ask(client, "llava-ultra") == (first, manifest_digest(model_folder))
    with pytest.raises(openai.NotFoundError):
        ask(client, "llava-ultra:breast")
    time.sleep(0.1)
    failed = [each for each in busy if not isinstance(each, tuple)]
    assert failed == []
    assert {text for text, _ in busy} == {first, following}
