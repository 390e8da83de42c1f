"""Feedback over HTTP into a real PostgreSQL, while it becomes a dataset."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
from fastapi import FastAPI

from sonoray.images.decode import encode_png
from sonoray.ingest.feedback_source import FeedbackSource
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_serve.clinic.answer_ids import new_answer_id
from sonoray_serve.http.testing import random_study, to_data_url
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.settings import ServeConfig

NUM_ANSWERS = 12


def said(number: int, correction: str, key: str, **more: Any) -> dict[str, Any]:
    (image,) = random_study(1, seed=number)
    return {
        "answer_id": new_answer_id(f"chatcmpl-{number}", "ab" * 32, digest_key(key)),
        "rating": "bad",
        "question": "良性还是恶性？",
        "answer": "良性",
        "corrected_text": correction,
        "images": [to_data_url(encode_png(image))],
        **more,
    }


def test_what_many_say_at_once_is_kept_in_postgresql_and_ingested_meanwhile(
    make_api: Callable[..., FastAPI],
    headers: dict[str, str],
    postgresql: str,
    tmp_path: Any,
):
    key = headers["Authorization"].removeprefix("Bearer ")
    apis = [make_api(config=ServeConfig(feedback=postgresql)) for _ in range(2)]
    bodies = [said(number, f"恶性{number}", key) for number in range(NUM_ANSWERS)]

    def read(name: str) -> tuple[int, list[str]]:
        workspace = Workspace.open(tmp_path / name)
        output = ingest(FeedbackSource(postgresql), workspace, IngestConfig())
        texts = [turn.answer for study in iter_studies(output.path) for turn in study.turns]
        return output.manifest["summary"]["rows"], sorted(texts)

    async def talk() -> list[tuple[int, list[str]]]:
        async def send(api: FastAPI, body: dict[str, Any]) -> None:
            transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
            async with httpx2.AsyncClient(transport=transport, base_url="http://t") as http:
                answer = await http.post("/v1/feedback", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["num_images"] == 1

        await send(apis[0], bodies[0])
        # each answer is said of twice, by two replicas at the same moment
        writing = asyncio.gather(*(send(api, body) for body in bodies for api in apis))
        early = [await asyncio.to_thread(read, f"early-{number}") for number in range(2)]
        await writing
        return [*early, await asyncio.to_thread(read, "late")]

    *early, late = asyncio.run(talk())
    assert late == (0, sorted(f"恶性{number}" for number in range(NUM_ANSWERS)))
    for num_refused, texts in early:
        assert num_refused == 0
        assert set(texts) <= set(late[1])
        assert texts


def test_a_character_that_postgresql_does_not_have_is_the_client_s_mistake(
    make_api: Callable[..., FastAPI], headers: dict[str, str], postgresql: str
):
    key = headers["Authorization"].removeprefix("Bearer ")
    api = make_api(config=ServeConfig(feedback=postgresql))

    async def send(body: dict[str, Any]) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as http:
            return await http.post("/v1/feedback", json=body, headers=headers)

    for body in (said(1, "a\0b", key), said(2, "a", key, options=["a", "b\0"])):
        answer = asyncio.run(send(body))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


def test_a_database_that_is_away_is_said_and_may_be_there_again(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    key = headers["Authorization"].removeprefix("Bearer ")
    api = make_api(config=ServeConfig(feedback="postgresql://tester@127.0.0.1:9/none"))

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as http:
            return await http.post("/v1/feedback", json=said(1, "a", key), headers=headers)

    answer = asyncio.run(send())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "tester" not in answer.text
    assert int(answer.headers["Retry-After"]) >= 1
