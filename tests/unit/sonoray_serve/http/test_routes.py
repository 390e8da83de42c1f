"""The HTTP application around the real model, in one process: shapes, limits, statuses."""

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from llava_ultra.decoding.likelihood import answer_log_likelihoods
from llava_ultra.decoding.step import read_prompts
from llava_ultra.export.assistant import Assistant
from llava_ultra.language.chat import encode_answer
from llava_ultra.testing import tiny_config
from sonoray.images.decode import encode_png
from sonoray_serve.http.testing import QUESTION, chat_body, random_study, to_data_url, user_message

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


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/reports", "/v1/feedback"])
def test_a_body_that_drips_in_has_the_requests_time_and_no_more(
    make_api: Callable[..., FastAPI], headers: dict[str, str], path: str, tmp_path: Path
):
    async def drips() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    api = make_api(workspace=str(tmp_path), deadline_s=0.2)
    answer = call(api, "POST", path, content=drips(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


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
    answer = call(api, "POST", CHAT, json=body, headers=headers).json()
    assert one["digest"] == answer["sonoray"]["digest"]
    assert one["max_model_len"] == tiny_config().language.context_length
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
        ("GET", "/docs", 200, None),
        ("GET", "/openapi.json", 200, None),
        ("GET", "/metrics", 200, None),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/healthz", 200, None),
        ("GET", "/health", 200, None),
        ("GET", "/readyz", 200, None),
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
        ({"n": 0}, {}, 400, "invalid_value"),
        ({"n": 3}, {"max_choices": 2}, 400, "too_many_choices"),
        (
            {"messages": [{"role": "user", "content": "?"}]},
            {"min_images": 1},
            400,
            "too_few_images",
        ),
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


QUESTION_ALONE = [{"role": "user", "content": QUESTION}]


def test_several_answers_are_drawn_each_with_its_own_seed(
    make_api: Callable[..., FastAPI], headers: dict[str, str], schemas: dict[str, Any]
):
    api = make_api()
    body = chat_body(random_study(2), temperature=1.5, seed=7)
    alone = [
        call(api, "POST", CHAT, json={**body, "seed": 7 + n}, headers=headers).json()
        for n in range(3)
    ]
    texts = [answer["choices"][0]["message"]["content"] for answer in alone]
    assert len(set(texts)) > 1
    together = call(api, "POST", CHAT, json={**body, "n": 3}, headers=headers).json()
    validate(together, "CreateChatCompletionResponse", schemas)
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in together["choices"]] == texts
    num_tokens = sum(answer["usage"]["completion_tokens"] for answer in alone)
    assert together["usage"]["completion_tokens"] == num_tokens
    streamed = call(api, "POST", CHAT, json={**body, "n": 3, "stream": True}, headers=headers)
    *chunks, done = events_of(streamed)
    assert done == "[DONE]"
    joined = ["", "", ""]
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse", schemas)
        for choice in chunk["choices"]:
            joined[choice["index"]] += choice["delta"].get("content", "")
    assert joined == texts
    ended = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ended) == [0, 1, 2]
    assert [bool(chunk.get("sonoray")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_tokens_are_told_with_their_probabilities(
    make_api: Callable[..., FastAPI], headers: dict[str, str], schemas: dict[str, Any]
):
    api = make_api()
    body = chat_body(random_study(2), logprobs=True, top_logprobs=3)
    answer = call(api, "POST", CHAT, json=body, headers=headers).json()
    validate(answer, "CreateChatCompletionResponse", schemas)
    (choice,) = answer["choices"]
    tokens = choice["logprobs"]["content"]
    said = b"".join(bytes(token["bytes"]) for token in tokens)
    assert said.decode(errors="replace") == choice["message"]["content"]
    assert len(tokens) in (answer["usage"]["completion_tokens"] - 1, len(tokens))
    for token in tokens:
        best = token["top_logprobs"]
        assert len(best) == 3
        assert best[0]["logprob"] >= best[1]["logprob"] >= best[2]["logprob"]
        assert best[0] == {key: token[key] for key in ("token", "logprob", "bytes")}  # greedy
        assert token["logprob"] <= 0
    streamed = call(api, "POST", CHAT, json={**body, "stream": True}, headers=headers)
    chunks = events_of(streamed)[:-1]
    parts = [choice["logprobs"] for c in chunks for choice in c["choices"] if "logprobs" in choice]
    assert len(parts) > 1
    assert [t["token"] for part in parts for t in part["content"]] == [t["token"] for t in tokens]
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse", schemas)


def test_penalties_change_what_is_said(make_api: Callable[..., FastAPI], headers: dict[str, str]):
    api = make_api()
    texts = [
        call(
            api,
            "POST",
            CHAT,
            json=chat_body(random_study(2), frequency_penalty=penalty, max_tokens=40),
            headers=headers,
        ).json()["choices"][0]["message"]["content"]
        for penalty in (0, 2, -2)
    ]
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ({"sonoray": {"options": ["良性", "恶性", "不确定"]}}, lambda text: text),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "verdict",
                        "strict": True,
                        "schema": {
                            "type": "object",
                            "properties": {"verdict": {"enum": ["良性", "恶性", "不确定"]}},
                            "required": ["verdict"],
                            "additionalProperties": False,
                        },
                    },
                }
            },
            lambda text: json.dumps({"verdict": text}, ensure_ascii=False),
        ),
    ],
)
def test_a_closed_question_is_answered_with_probabilities(
    make_api: Callable[..., FastAPI],
    headers: dict[str, str],
    assistant: Assistant,
    schemas: dict[str, Any],
    form: dict[str, Any],
    write: Callable[[str], str],
):
    images, options = random_study(2), ["良性", "恶性", "不确定"]
    api, body = make_api(), chat_body(images, **form)
    answer = call(api, "POST", CHAT, json=body, headers=headers).json()
    validate(answer, "CreateChatCompletionResponse", schemas)
    prompt = assistant.prepare(assistant.encode(images), QUESTION_ALONE)
    mask = torch.ones(prompt.inputs_embeds.shape[:2], dtype=torch.bool)
    expected = answer_log_likelihoods(
        assistant.model,
        read_prompts(assistant.model, prompt.inputs_embeds, mask),
        [0] * 3,
        [encode_answer(assistant.tokenizer, option) for option in options],
        max_tokens=10_000,
    )
    closed = answer["sonoray"]["closed"]
    assert [each["text"] for each in closed["options"]] == options
    found = [each["log_likelihood"] for each in closed["options"]]
    assert found == pytest.approx(expected.tolist(), abs=1e-3)
    shares = [each["probability"] for each in closed["options"]]
    assert shares == pytest.approx(expected.softmax(dim=0).tolist(), abs=1e-3)
    assert closed["calibrated"] is False
    best = options[int(expected.argmax())]
    assert answer["choices"][0]["message"]["content"] == write(best)
    assert answer["choices"][0]["finish_reason"] == "stop"
    chunks = events_of(call(api, "POST", CHAT, json={**body, "stream": True}, headers=headers))
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == write(best)
    told = {key: value for key, value in closed.items() if value is not None}
    assert chunks[-2]["sonoray"]["closed"] == told


def test_a_question_without_images_is_answered_and_says_what_that_means(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    api = make_api()
    system = {"role": "system", "content": "请用中文。"}
    for messages, words in ((QUESTION_ALONE, 1), ([system, *QUESTION_ALONE], 2)):
        body = chat_body([], messages=messages)
        answer = call(api, "POST", CHAT, json=body, headers=headers).json()
        assert answer["choices"][0]["message"]["content"]
        assert answer["sonoray"]["images"] == []
        assert len(answer["sonoray"]["remarks"]) == words
    with_images = call(api, "POST", CHAT, json=chat_body(random_study(1)), headers=headers).json()
    assert with_images["sonoray"]["remarks"] == []


@pytest.mark.parametrize("prompt", [QUESTION, [QUESTION]])
def test_a_plain_completion_is_the_answer_to_its_text(
    make_api: Callable[..., FastAPI], headers: dict[str, str], prompt: Any
):
    api, path = make_api(), "/v1/completions"
    chat = call(
        api, "POST", CHAT, json=chat_body([]) | {"messages": QUESTION_ALONE}, headers=headers
    )
    text = chat.json()["choices"][0]["message"]["content"]
    body = {"model": "llava-ultra", "prompt": prompt, "max_tokens": 16}
    answer = call(api, "POST", path, json=body, headers=headers).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == text
    assert answer["usage"] == chat.json()["usage"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events_of(call(api, "POST", path, json={**body, **options}, headers=headers))
    assert done == "[DONE]"
    assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == text
    assert chunks[-1]["usage"] == answer["usage"]


def test_an_answer_that_ignores_the_end_has_its_full_length(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    body = chat_body(random_study(1), ignore_eos=True, max_tokens=60)
    answer = call(make_api(), "POST", CHAT, json=body, headers=headers).json()
    assert answer["usage"]["completion_tokens"] == 60
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_study_has_a_vector_of_length_one(
    make_api: Callable[..., FastAPI], headers: dict[str, str], assistant: Assistant
):
    images = random_study(2)
    urls = [to_data_url(encode_png(image)) for image in images]
    api, path = make_api(), "/v1/embeddings"
    body = {"model": "llava-ultra", "input": urls}
    found = call(api, "POST", path, json=body, headers=headers).json()
    visual = assistant.encode(images)
    mean = visual.feature_scores.softmax(dim=0) @ visual.tokens.mean(dim=1)
    expected = (mean / mean.norm()).tolist()
    assert found["data"][0]["embedding"] == pytest.approx(expected, abs=1e-5)
    as_text = call(
        api, "POST", path, json={**body, "encoding_format": "base64"}, headers=headers
    ).json()
    data = base64.b64decode(as_text["data"][0]["embedding"])
    assert np.frombuffer(data, "<f4").tolist() == pytest.approx(expected, abs=1e-5)
    one = call(api, "POST", path, json={**body, "input": urls[0]}, headers=headers).json()
    assert len(one["sonoray"]["images"]) == 1
    refused = call(api, "POST", path, json={**body, "input": "text"}, headers=headers)
    assert refused.json()["error"]["code"] == "image_url_not_data"
    assert refused.json()["error"]["param"] == "input[0]"


def test_an_error_names_the_parameter_in_its_message(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    for extra in ({"n": 0}, {"tools": []}, {"top_logprobs": 99}):
        body = chat_body(random_study(1), **extra)
        error = call(make_api(), "POST", CHAT, json=body, headers=headers).json()["error"]
        (name,) = extra
        assert error["param"] == name
        assert f": {name}." in error["message"]


def test_the_service_counts_what_it_answered(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    api = make_api()
    call(api, "POST", CHAT, json=chat_body(random_study(1)), headers=headers)
    call(api, "POST", CHAT, json={}, headers=headers)
    call(api, "GET", "/a-path-of-a-patient-canary", headers=headers)
    text = call(api, "GET", "/metrics", headers=headers).text
    assert f'sonoray_requests_total{{path="{CHAT}",status="200"}} 1' in text
    assert f'sonoray_requests_total{{path="{CHAT}",status="400"}} 1' in text
    assert 'sonoray_requests_total{path="other",status="404"} 1' in text
    assert f'sonoray_request_seconds_count{{path="{CHAT}"}} 2' in text
    assert "sonoray_requests_in_work 0" in text
    assert "canary" not in text


def test_the_page_describes_every_path_and_loads_nothing(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    api = make_api()
    described = call(api, "GET", "/openapi.json", headers=headers).json()
    page = call(api, "GET", "/docs", headers=headers).text
    for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/models", "/readyz", "/metrics"):
        assert path in described["paths"]
        assert path in page
    assert "<script" not in page
    assert "://" not in page
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references <= described["components"]["schemas"].keys()
    assert described["paths"]["/healthz"]["get"]["security"] == []


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
