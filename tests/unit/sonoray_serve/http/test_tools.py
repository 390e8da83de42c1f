"""Tools over HTTP: calls in the shapes of OpenAI, whole and streamed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from fastapi import FastAPI

from sonoray_serve.http.testing import chat_body, random_study

CHAT = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "risk",
            "description": "the patient's risk",
            "parameters": {
                "type": "object",
                "properties": {"about": {"type": "string", "enum": ["chance", "reasons"]}},
            },
        },
    }
]


def call(api: FastAPI, body: dict[str, Any], headers: dict[str, str]) -> httpx2.Response:
    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.post(CHAT, json=body, headers=headers)

    return asyncio.run(send())


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    *events, last, empty = response.text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in events]


@pytest.fixture(scope="module")
def schemas(shared_data: Callable[[str], Path]) -> dict[str, Any]:
    """OpenAI's published schemas, `nullable` written the way JSON Schema knows it."""
    found = json.loads(shared_data("openai/chat_schemas.json").read_text(encoding="utf-8"))

    def rewrite(value: Any) -> Any:
        if isinstance(value, list):
            return [rewrite(each) for each in value]
        if not isinstance(value, dict):
            return value
        inner = {key: rewrite(each) for key, each in value.items() if key != "nullable"}
        return {"anyOf": [inner, {"type": "null"}]} if value.get("nullable") is True else inner

    rewritten: dict[str, Any] = rewrite(found)
    return rewritten


def validate(value: Any, name: str, schemas: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", **schemas}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_a_forced_call_is_the_likeliest_and_comes_in_openais_shapes(
    make_api: Callable[..., FastAPI], headers: dict[str, str], schemas: dict[str, Any]
):
    api = make_api()
    body = chat_body(random_study(1), tools=TOOLS, tool_choice="required")
    answer = call(api, body, headers).json()
    validate(answer, "CreateChatCompletionResponse", schemas)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (made,) = choice["message"]["tool_calls"]
    assert made["id"].startswith("call_")
    assert made["function"]["name"] == "risk"
    about = json.loads(made["function"]["arguments"])["about"]
    options = answer["sonoray"]["closed"]["options"]
    assert len(options) == 2
    likeliest = max(options, key=lambda each: each["probability"])["text"]
    assert likeliest == f"risk {made['function']['arguments']}"
    assert about in ("chance", "reasons")
    assert any("tools were offered" in each for each in answer["sonoray"]["remarks"])

    streamed = call(api, {**body, "stream": True}, headers)
    chunks = events_of(streamed)
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse", schemas)
    deltas = [each["choices"][0]["delta"] for each in chunks]
    (told,) = [each["tool_calls"] for each in deltas if "tool_calls" in each]
    assert told[0]["index"] == 0
    assert told[0]["function"] == made["function"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    said = {"role": "tool", "tool_call_id": made["id"], "content": "0.83"}
    after = [*body["messages"], choice["message"], said]
    options = {"options": ["良性", "恶性"]}
    last = call(api, chat_body([], messages=after, sonoray=options), headers).json()
    assert last["choices"][0]["message"]["content"] in options["options"]
    assert "tool_calls" not in last["choices"][0]["message"]


def test_offered_tools_that_nobody_calls_leave_a_text(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    """The tiny model was never shown a tool: what it says of them is its own text."""
    api = make_api()
    body = chat_body(random_study(1), tools=TOOLS)
    answer = call(api, body, headers).json()
    message = answer["choices"][0]["message"]
    assert isinstance(message["content"], str)
    assert "tool_calls" not in message
    streamed = call(api, {**body, "stream": True}, headers)
    joined = "".join(
        choice["delta"].get("content", "")
        for chunk in events_of(streamed)
        for choice in chunk["choices"]
    )
    assert joined == message["content"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"tools": []}, "invalid_value"),
        ({"tools": TOOLS, "n": 2}, "not_with_tools"),
        ({"tool_choice": "required"}, "no_such_tool"),
        ({"messages": [{"role": "assistant", "content": None}]}, "last_message_not_user"),
    ],
)
def test_what_is_wrong_with_tools_is_said(
    make_api: Callable[..., FastAPI], headers: dict[str, str], values: dict[str, Any], code: str
):
    body = chat_body(random_study(1), **values)
    answer = call(make_api(), body, headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
