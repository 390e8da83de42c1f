"""The HTTP application around the real model, in one process: shapes, limits, statuses."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError, RequestCancelledError

from llava_ultra.export.assistant import Assistant
from sonoray_serve.http.ingress import translated
from sonoray_serve.http.testing import QUESTION, chat_body, random_study, to_data_url, user_message
from sonoray_serve.problems import ApiError, InternalError, Problem

CHAT = "/v1/chat/completions"


def call(api: FastAPI, method: str, path: str, **options: Any) -> httpx2.Response:
    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def events_of(response: httpx2.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


@pytest.fixture(scope="module")
def schemas(shared_data: Callable[[str], Path]) -> dict[str, Any]:
    """OpenAI's published schemas, `nullable` written the way JSON Schema knows it."""
    path = shared_data("openai/chat_schemas.json")

    def rewrite(value: Any) -> Any:
        if isinstance(value, list):
            return [rewrite(each) for each in value]
        if not isinstance(value, dict):
            return value
        inner = {key: rewrite(each) for key, each in value.items() if key != "nullable"}
        return {"anyOf": [inner, {"type": "null"}]} if value.get("nullable") is True else inner

    rewritten: dict[str, Any] = rewrite(json.loads(path.read_text(encoding="utf-8")))
    return rewritten


def validate(value: Any, name: str, schemas: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", **schemas}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_answer_equals_the_assistants_and_says_which_image_was_used(
    make_api: Callable[..., FastAPI], headers: dict[str, str], assistant: Assistant
):
    images = random_study(3)
    answer = call(make_api(), "POST", CHAT, json=chat_body(images), headers=headers).json()
    prompt = assistant.prepare(assistant.encode(images), [{"role": "user", "content": QUESTION}])
    expected = "".join(assistant.stream(prompt, max_tokens=16))
    assert answer["choices"][0]["message"]["content"] == expected
    sonoray = answer["sonoray"]
    assert [image["score"] for image in sonoray["images"]] == pytest.approx(prompt.scores)
    chosen = [image["index"] for image in sonoray["images"] if image["selected"]]
    assert chosen == sorted(prompt.selected)
    assert sonoray["notice"] == assistant.notice
    assert answer["usage"]["prompt_tokens"] == prompt.num_prompt_tokens
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][f"{kind}_tokens"] for kind in ("prompt", "completion")
    )


def test_transparent_pixels_are_black_to_the_model_and_said(
    make_api: Callable[..., FastAPI], headers: dict[str, str], assistant: Assistant
):
    grey, noise = random_study(2)
    alpha = np.zeros_like(noise)
    alpha[:, :40] = 255
    data = io.BytesIO()
    Image.fromarray(np.dstack([noise, alpha])).save(data, "PNG")
    seen = np.where(alpha > 0, noise, 0).astype(np.uint8)
    body = chat_body([grey, noise])
    body["messages"][0]["content"][2]["image_url"]["url"] = to_data_url(data.getvalue())
    answer = call(make_api(), "POST", CHAT, json=body, headers=headers).json()
    images = answer["sonoray"]["images"]
    assert [image["transparent"] for image in images] == [False, True]
    study = assistant.encode([grey, seen])
    prompt = assistant.prepare(study, [{"role": "user", "content": QUESTION}])
    assert [image["score"] for image in images] == pytest.approx(prompt.scores)


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream_joins_to_the_whole_answer(
    make_api: Callable[..., FastAPI], headers: dict[str, str], include_usage: bool
):
    body = chat_body(random_study(2))
    whole = call(make_api(), "POST", CHAT, json=body, headers=headers).json()
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    response = call(make_api(), "POST", CHAT, json={**body, **options}, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole["choices"][0]["finish_reason"]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk.get("sonoray") for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["sonoray"]["images"] == [
        {**image, "score": pytest.approx(image["score"])} for image in whole["sonoray"]["images"]
    ]
    assert chunks[-1]["sonoray"]["digest"] == whole["sonoray"]["digest"]
    assert chunks[-1].get("usage") == (whole["usage"] if include_usage else None)


def test_answers_validate_against_openais_schemas(
    make_api: Callable[..., FastAPI], headers: dict[str, str], schemas: dict[str, Any]
):
    api, body = make_api(), chat_body(random_study(2))
    validate(
        call(api, "POST", CHAT, json=body, headers=headers).json(),
        "CreateChatCompletionResponse",
        schemas,
    )
    for options in ({}, {"stream_options": {"include_usage": True}}):
        stream = {**body, "stream": True, **options}
        chunks = events_of(call(api, "POST", CHAT, json=stream, headers=headers))[:-1]
        assert len(chunks) > 1
        for chunk in chunks:
            validate(chunk, "CreateChatCompletionStreamResponse", schemas)
    validate(call(api, "GET", "/v1/models", headers=headers).json(), "ListModelsResponse", schemas)
    one = call(api, "GET", "/v1/models/llava-ultra", headers=headers).json()
    validate(one, "Model", schemas)
    for refused in (
        call(api, "GET", "/v1/models"),
        call(api, "POST", CHAT, json={}, headers=headers),
        call(api, "GET", "/nowhere", headers=headers),
        call(api, "DELETE", CHAT, headers=headers),
    ):
        validate(refused.json(), "ErrorResponse", schemas)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/healthz", 200, None),
    ],
)
def test_paths(
    make_api: Callable[..., FastAPI],
    headers: dict[str, str],
    method: str,
    path: str,
    status: int,
    code: str | None,
):
    answer = call(make_api(), method, path, headers=headers)
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("extra", "limits", "status", "code"),
    [
        ({"model": "other"}, {}, 404, "model_not_found"),
        ({"messages": []}, {}, 400, "invalid_value"),
        ({"n": 2}, {}, 400, "invalid_value"),
        ({"messages": [0] * 20_000}, {}, 400, "too_many_values"),
        ({"max_tokens": 2000}, {}, 400, "max_tokens_too_large"),
        ({}, {"max_images": 1}, 400, "too_many_images"),
        ({}, {"max_body_bytes": 1000}, 413, "body_too_large"),
        ({}, {"deadline_s": 1e-4}, 504, "deadline"),
        ({"messages": [user_message(random_study(1), "q" * 6000)]}, {}, 400, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_have_their_status_also_where_a_stream_was_asked_for(
    make_api: Callable[..., FastAPI],
    headers: dict[str, str],
    extra: dict[str, Any],
    limits: dict[str, Any],
    status: int,
    code: str | None,
    stream: bool,
):
    body = chat_body(random_study(2), stream=stream, **extra)
    answer = call(make_api(**limits), "POST", CHAT, json=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == (code or "context_length_exceeded")


def test_body_is_counted_while_it_arrives(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b" " * 10_000

    answer = call(make_api(max_body_bytes=50_000), "POST", CHAT, content=endless(), headers=headers)
    assert answer.status_code == 413
    assert sent <= 70_000


def test_a_client_that_leaves_while_it_uploads_is_no_failure(
    make_api: Callable[..., FastAPI], headers: dict[str, str], caplog: pytest.LogCaptureFixture
):
    arriving = iter(
        [
            {"type": "http.request", "body": b'{"model": ', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent = []

    async def receive() -> Any:
        return next(arriving)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [(b"authorization", headers["Authorization"].encode())],
    }
    asyncio.run(make_api()(scope, receive, send))
    assert sent == []
    assert "request failed" not in caplog.text


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (BackPressureError(3, 2), Problem.BUSY),
        (RayActorError(), Problem.UNAVAILABLE),
        (ReplicaUnavailableError("engine-1"), Problem.UNAVAILABLE),
        (RequestCancelledError("id"), Problem.UNAVAILABLE),
        (RayTaskError("generate", "canary", RuntimeError("canary")), Problem.INTERNAL),
        (
            RayTaskError("generate", "canary", InternalError("x")).as_instanceof_cause(),
            Problem.INTERNAL,
        ),
    ],
)
def test_ray_serves_failures_become_the_apis(failure: Exception, problem: Problem):
    with pytest.raises(ApiError) as translation, translated():
        raise failure
    assert translation.value.problem is problem


def test_nothing_of_a_request_reaches_the_log(
    make_api: Callable[..., FastAPI], headers: dict[str, str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(0)
    canary = "患者姓名-canary"
    body = chat_body(random_study(1), question=canary)
    assert call(make_api(), "POST", CHAT, json=body, headers=headers).status_code == 200
    refused = call(make_api(), "POST", CHAT, json={**body, canary: 1}, headers=headers)
    assert refused.status_code == 400
    assert canary not in caplog.text + refused.text
