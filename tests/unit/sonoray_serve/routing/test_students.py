"""The student of a real tiny model over HTTP: who answers what, and who is told of it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from fastapi import FastAPI

from llava_ultra.export.encoder import load_encoder
from llava_ultra.student.network import Student, pad_images
from llava_ultra.student.student_card import read_card, scores_of
from llava_ultra.testing import TEXTS, tiny_artifact
from sonoray.images.decode import encode_png
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.routes import create_api
from sonoray_serve.http.testing import chat_body, random_study, to_data_url
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import AppArgs, Batching, ServeConfig
from sonoray_serve.shapes.choices import softmax

CHAT = "/v1/chat/completions"
KEY = "unit-test-key-0123456789"
PATHOLOGY, ORGAN = TEXTS[0], TEXTS[5]
OPTIONS = {PATHOLOGY: (TEXTS[1], TEXTS[2]), ORGAN: (TEXTS[6], TEXTS[7], TEXTS[8])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("exported") / "model"
    tiny_artifact(made, lively=True, with_student=True)
    return made


class Counted:
    """An engine or a vision replica that counts what it is asked."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.num_asked = inner, 0

    def generate(self, *given: Any) -> Any:
        self.num_asked += 1
        return self.inner.generate(*given)

    async def encode(self, *given: Any) -> Any:
        self.num_asked += 1
        return await self.inner.encode(*given)

    async def ready(self) -> str:
        return await self.inner.ready()


@pytest.fixture(scope="module")
def halves(folder: Path) -> tuple[Vision, Engine]:
    source = ModelSource(model=str(folder), digest="", workspace="", device="cpu")
    vision = Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)
    return vision, Engine(source, Batching(max_answers=1, stream_interval_s=0))


@pytest.fixture
def serve(halves: tuple[Vision, Engine]) -> Callable[..., tuple[FastAPI, Counted, Counted]]:
    """The application, its vision and its engine."""

    def make(**config: Any) -> tuple[FastAPI, Counted, Counted]:
        vision, engine = map(Counted, halves)
        settings = ServeConfig(**config)
        args = AppArgs(model="unused", api_key_digests=(digest_key(KEY),), config=settings)
        cards = asyncio.run(halves[1].cards())
        chat = Chat(
            vision=vision,
            engine=engine,
            models={args.model_name: next(iter(cards.values()))},
            limits=settings.limits,
            student_budget=settings.student_budget,
        )
        return create_api(chat, args), vision, engine

    return make


def call(api: FastAPI, path: str, body: Any = None) -> httpx2.Response:
    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            headers = {"Authorization": f"Bearer {KEY}"}
            method = "GET" if body is None else "POST"
            return await client.request(method, path, json=body, headers=headers)

    return asyncio.run(send())


def asked(question: str, seed: int = 0, **extra: Any) -> dict[str, Any]:
    told = {"sonoray": {"options": list(OPTIONS[question])}, **extra}
    return chat_body(random_study(2, seed=seed), question, **told)


def offline(folder: Path, question: str, seed: int) -> tuple[list[float], list[float]]:
    """What the student says that `sonoray distil` wrote, and how sure it is, calibrated."""
    outside = folder.parent / "model-student"
    student, card = Student.load(outside), read_card(outside)
    pooled = load_encoder(folder).fuse(random_study(2, seed=seed)).pooled.numpy()
    topic = card.topic_of(question, OPTIONS[question])
    place, known = list(card.topics).index(topic), card.topics[topic]
    with torch.no_grad():
        logits = student(*pad_images([pooled])).logits[0, place, : len(known)].numpy()
    scores = list(scores_of(logits, known, OPTIONS[question]).values())
    return scores, softmax([value / card.calibration["temperature"] for value in scores])


@pytest.mark.parametrize("question", [PATHOLOGY, ORGAN])
def test_the_student_answers_as_it_was_distilled_and_asks_no_engine(serve, folder, question):
    api, vision, engine = serve()
    body = asked(question, model="llava-ultra:student")
    answer = call(api, CHAT, body).json()
    scores, shares = offline(folder, question, 0)
    closed = answer["sonoray"]["closed"]
    assert [each["log_likelihood"] for each in closed["options"]] == pytest.approx(scores)
    assert [each["probability"] for each in closed["options"]] == pytest.approx(shares)
    best = OPTIONS[question][int(np.argmax(shares))]
    assert answer["choices"][0]["message"]["content"] == best
    assert answer["model"] == answer["sonoray"]["model"] == "llava-ultra:student"
    assert answer["sonoray"]["answered_by"] == "student"
    assert closed["calibrated"]
    assert closed["abstain"] == (max(shares) < 0.55)
    images = answer["sonoray"]["images"]
    assert sum(each["score"] for each in images) == pytest.approx(1)
    assert all(each["selected"] for each in images)
    assert answer["usage"]["total_tokens"] == 0
    assert (vision.num_asked, engine.num_asked) == (1, 0)
    again = call(api, CHAT, {**body, "stream": True})  # known by now: neither is asked
    (piece,) = (
        each["choices"][0]["delta"]["content"]
        for line in again.text.split("\n\n")[:-2]
        if (each := json.loads(line.removeprefix("data: ")))["choices"][0]["delta"].get("content")
    )
    assert piece == best
    assert (vision.num_asked, engine.num_asked) == (1, 0)


def test_after_the_student_the_model_can_be_asked_of_the_same_study(serve):
    api, vision, _ = serve()
    call(api, CHAT, asked(PATHOLOGY, model="llava-ultra:student"))
    answer = call(api, CHAT, asked(PATHOLOGY)).json()
    assert answer["sonoray"]["answered_by"] == "model"
    assert answer["model"] == "llava-ultra"
    assert vision.num_asked == 2  # the engine had not been given the study
    alone, _, _ = serve()
    expected = call(alone, CHAT, asked(PATHOLOGY)).json()
    assert answer["sonoray"]["closed"] == expected["sonoray"]["closed"]


def test_without_a_budget_the_model_answers_for_itself(serve):
    api, _, engine = serve()
    answer = call(api, CHAT, asked(PATHOLOGY)).json()
    assert answer["sonoray"]["answered_by"] == "model"
    assert engine.num_asked == 1


def test_within_a_budget_the_student_answers_what_it_is_sure_of(serve, folder):
    sure = {seed: max(offline(folder, PATHOLOGY, seed)[1]) for seed in range(12)}
    surest, least = max(sure, key=sure.get), min(sure, key=sure.get)
    assert sure[least] < 0.6 <= sure[surest], sure  # the tiny card's routing within 0.01
    for budget, answered in ((0.005, ()), (0.01, (surest,)), (0.1, (surest, least))):
        api, _, engine = serve(student_budget=budget)
        for seed in (surest, least):
            answer = call(api, CHAT, asked(PATHOLOGY, seed)).json()
            by, name = (
                ("student", "llava-ultra:student") if seed in answered else ("model", "llava-ultra")
            )
            assert (answer["sonoray"]["answered_by"], answer["model"]) == (by, name)
            again = call(api, CHAT, asked(PATHOLOGY, seed)).json()  # its study is known by now
            assert again["sonoray"]["answered_by"] == by
        assert engine.num_asked == 2 * (2 - len(answered))


def test_what_the_student_did_not_learn_is_the_models_within_a_budget(serve):
    api, _, engine = serve(student_budget=1.0)
    history = [*asked(PATHOLOGY)["messages"], {"role": "assistant", "content": "?"}]
    follow_up = {"role": "user", "content": PATHOLOGY}
    others = [
        chat_body(random_study(2), PATHOLOGY),
        asked(PATHOLOGY, sonoray={"options": ["良性", "不明"]}),
        asked(PATHOLOGY, messages=[*history, follow_up]),
        chat_body(random_study(2), "左侧?", sonoray={"options": list(OPTIONS[PATHOLOGY])}),
    ]
    for number, body in enumerate(others, 1):
        answer = call(api, CHAT, body)
        assert answer.json()["sonoray"]["answered_by"] == "model"
        assert engine.num_asked == number


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sonoray": {}}, "it has no options; name them in sonoray.options"),
        ({"sonoray": {"options": ["良性", "canary"]}}, "an option is none of its own: 良性, 恶性"),
        ({"messages": [{"role": "user", "content": PATHOLOGY}]}, "it comes without images"),
        (
            {"messages": [{"role": "system", "content": "canary"}, *asked(PATHOLOGY)["messages"]]},
            "other messages stand before it",
        ),
        (
            {"messages": chat_body(random_study(1), "canary?")["messages"]},
            f"it learned other questions: {PATHOLOGY}, {ORGAN}",
        ),
    ],
)
def test_the_student_refuses_what_it_did_not_learn(serve, change, said):
    api, vision, engine = serve(student_budget=1.0)
    response = call(api, CHAT, {**asked(PATHOLOGY, model="llava-ultra:student"), **change})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "not_the_students"
    assert said in error["message"]
    assert "without :student" in error["message"]
    assert "canary" not in error["message"]
    assert (vision.num_asked, engine.num_asked) == (0, 0)


def test_students_are_listed_and_do_nothing_but_answer(serve):
    api, _, _ = serve()
    listed = [each["id"] for each in call(api, "/v1/models").json()["data"]]
    assert listed == ["llava-ultra", "llava-ultra:student"]
    assert call(api, "/v1/models/llava-ultra:student").status_code == 200
    image = to_data_url(encode_png(random_study(1)[0]))
    for name, status in (("llava-ultra:student", 400), ("other:student", 404)):
        response = call(api, "/v1/embeddings", {"model": name, "input": [image]})
        assert response.status_code == status
    assert call(api, CHAT, asked(PATHOLOGY, model="other:student")).status_code == 404


def test_answers_are_counted_and_logged_by_who_gave_them(serve, tmp_path):
    api, _, _ = serve(audit_log=str(tmp_path))
    call(api, CHAT, asked(PATHOLOGY, model="llava-ultra:student"))
    call(api, CHAT, asked(PATHOLOGY, model="llava-ultra:student", stream=True))
    call(api, CHAT, chat_body(random_study(2), PATHOLOGY, model="llava-ultra:student"))  # refused
    call(api, CHAT, asked(PATHOLOGY))
    text = call(api, "/metrics").text
    assert 'sonoray_answers_total{by="student"} 2' in text
    assert 'sonoray_answers_total{by="model"} 1' in text
    (log,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [line.get("answered_by") for line in lines if line["path"] == CHAT]
    assert told == ["student", "student", None, "model"]
    assert "answered_by" not in lines[-1]  # of /metrics
