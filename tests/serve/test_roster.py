"""Models come, go and change places in a running service, and no request fails by it."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from sqlalchemy import select

from llava_ultra.config import ModelConfig
from llava_ultra.decoding.class_scores import read_classes, score_classes
from llava_ultra.export.assistant import Assistant, load_assistant
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.testing import tiny_artifact
from sonoray.images.decode import encode_png
from sonoray.records.comparison_table import tables
from sonoray.records.database import open_database
from sonoray.tracking.registry import manifest_digest
from sonoray_jobs.release.promote import roll_back
from sonoray_serve.http.testing import QUESTION, chat_body, random_study, to_data_url

pytestmark = pytest.mark.ray

IMAGES = random_study(2)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, recognising: ModelConfig) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("others")
    for seed, name in ((1, "breast"), (2, "next")):
        tiny_artifact(root / name, lively=True, seed=seed, config=recognising)
    shutil.copytree(root / "next", root / "bad")
    path = root / "bad" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    manifest = root / "bad" / "manifest.json"  # a version of its own: the registry knows by digest
    manifest.write_text(manifest.read_text().replace("random weights", "spoiled weights"))
    return {path.name: path for path in root.iterdir()}


def alone(assistant: Assistant) -> str:
    messages = [{"role": "user", "content": QUESTION}]
    prompt = assistant.prepare(assistant.encode(IMAGES), messages)
    return "".join(assistant.stream(prompt, max_tokens=16))


def ask(client: openai.OpenAI, model: str) -> tuple[str, str]:
    answer = client.chat.completions.create(**chat_body(IMAGES, model=model))
    return answer.choices[0].message.content or "", answer.model_extra["sonoray"]["digest"]


CLASSES = [{"name": "良性"}, {"name": "恶性"}]


def classes(http: httpx2.Client, model: str) -> list[float]:
    """Shares of the classes, by name."""
    images = [to_data_url(encode_png(image)) for image in IMAGES]
    body = {"model": model, "images": images, "classes": CLASSES}
    found = http.post("/v1/recognize", json=body).json()
    return [each["share"] for each in sorted(found["classes"], key=lambda each: each["name"])]


def classes_alone(assistant: Assistant) -> list[float]:
    """The same of the model by itself."""
    tokens = assistant.encode(IMAGES).tokens[None]
    bank = ClassBank.model_validate({"classes": CLASSES})
    known = read_classes(assistant.model, assistant.tokenizer, bank)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    scores = score_classes(assistant.model, assistant.tokenizer, known, tokens, mask, ["request"])
    shares = dict(zip(bank.names, scores[0].double().softmax(dim=0).tolist(), strict=True))
    return [shares[name] for name in sorted(shares)]


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
    http: httpx2.Client,
    promote: Callable[[Path], int],
    busy: list[Any],
    others: dict[str, Path],
    model_folder: Path,
    assistant: Assistant,
    caplog: pytest.LogCaptureFixture,
):
    keeper = running.service.keeper
    first, following = alone(assistant), alone(load_assistant(others["next"]))
    breast = alone(load_assistant(others["breast"]))
    by_class = classes(http, "llava-ultra")
    assert len({first, following, breast}) == 3
    assert [model.id for model in client.models.list()] == ["llava-ultra"]

    running.adapters.write_text(f'breast = "{others["breast"]}"\n')
    keeper.look()
    assert {model.id for model in client.models.list()} == {"llava-ultra", "llava-ultra:breast"}
    for _ in range(3):  # beside the requests for the other one
        text, digest = ask(client, "llava-ultra:breast")
        assert (text, digest) == (breast, manifest_digest(others["breast"]))
    assert classes(http, "llava-ultra") == pytest.approx(by_class)
    of_breast = classes(http, "llava-ultra:breast")
    assert of_breast == pytest.approx(classes_alone(load_assistant(others["breast"])), abs=1e-5)
    assert of_breast != pytest.approx(by_class, abs=1e-4)

    promote(others["bad"])
    keeper.look()
    assert "models stay as they are" in caplog.text
    assert ask(client, "llava-ultra") == (first, manifest_digest(model_folder))

    promote(others["next"])
    keeper.look()
    assert ask(client, "llava-ultra") == (following, manifest_digest(others["next"]))

    for _ in range(2):  # past the one that was refused
        roll_back(workspace=running.workspace, name="llava-ultra", alias="champion")
    running.adapters.write_text("")
    keeper.look()
    assert ask(client, "llava-ultra") == (first, manifest_digest(model_folder))
    with pytest.raises(openai.NotFoundError):
        ask(client, "llava-ultra:breast")
    time.sleep(0.1)
    failed = [each for each in busy if not isinstance(each, tuple)]
    assert failed == []
    assert {text for text, _ in busy} == {first, following}


def copies(http: httpx2.Client) -> dict[str, int]:
    """Copies for the candidate by their outcome."""
    lines = http.get("/metrics").text.splitlines()
    found = (re.fullmatch(r'sonoray_shadow_total\{outcome="(\w+)"\} (\d+)', line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


def test_a_candidate_is_asked_what_others_are_asked_and_nobody_is_given_its_answers(
    running: Any,
    client: openai.OpenAI,
    http: httpx2.Client,
    others: dict[str, Path],
    model_folder: Path,
    assistant: Assistant,
):
    keeper = running.service.keeper
    served = manifest_digest(model_folder)
    first, candidate = alone(assistant), alone(load_assistant(others["breast"]))
    assert ask(client, "llava-ultra") == (first, served)
    assert sum(copies(http).values()) == 0  # there is none yet
    running.adapters.write_text(f'candidate = "{others["breast"]}"\n')
    keeper.look()
    for number in (1, 2):
        assert ask(client, "llava-ultra") == (first, served)
        deadline = time.monotonic() + 60
        while sum(copies(http).values()) < number:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert copies(http) == {"same": 0, "different": 2, "failed": 0, "dropped": 0}
    running.adapters.write_text("")
    keeper.look()
    assert ask(client, "llava-ultra") == (first, served)
    assert sum(copies(http).values()) == 2
    path = running.workspace.root / "feedback.db"
    with open_database(str(path), tables()[0], create=False).connect() as connection:
        rows = connection.execute(select(tables()[1])).all()
    digest = manifest_digest(others["breast"])
    assert [(row.served_digest, row.candidate_digest) for row in rows] == [(served, digest)] * 2
    assert [row.same_text for row in rows] == [False, False]
    kept = path.read_bytes()
    assert all(text.encode() not in kept for text in (first, candidate, QUESTION))
