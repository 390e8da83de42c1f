"""Requests are read strictly, and no error names anything but the API's own words."""

import json
from typing import Any

import pytest

from sonoray_serve.http.testing import chat_body, random_study, user_message
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits
from sonoray_serve.shapes.api import ChatRequest, parse_request

CANARY = "patient-name-canary"
USER = {"role": "user", "content": "q"}


def parse(body: bytes) -> ChatRequest:
    return parse_request(ChatRequest, body, Limits().max_marks)


def request(**extra: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **extra}).encode()


def messages_of(part: dict[str, Any], times: int = 1) -> bytes:
    return request(messages=[{"role": "user", "content": [part] * times}])


def test_a_whole_request_is_read():
    body = chat_body(
        random_study(2), stream=True, stream_options={"include_usage": True}, stop="。"
    )
    parsed = parse(json.dumps(body).encode())
    assert [part.type for part in parsed.messages[0].content] == ["text", "image_url", "image_url"]
    assert parsed.include_usage
    assert parsed.stop_texts == ("。",)


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1},
        {"top_p": 0.0},
        {"top_p": 0.9},
        {"frequency_penalty": 0, "presence_penalty": 0.0},
        {"logprobs": False, "response_format": {"type": "text"}},
        {"n": 3, "frequency_penalty": -2, "presence_penalty": 0.5, "logprobs": True},
        {"user": "u", "metadata": {"k": "v"}, "safety_identifier": "s", "store": False},
        {"stop": None, "temperature": None, "seed": None, "max_tokens": None, "stream": None},
        {"stop": ["a", "b"]},
        {"temperature": 2, "seed": 2**63 - 1},
    ],
)
def test_what_clients_send_unasked_is_accepted(neutral: dict[str, Any]):
    assert isinstance(parse(request(**neutral)), ChatRequest)


def test_an_answer_can_be_sent_back_as_openai_clients_dump_it():
    earlier = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}
    parsed = parse(request(messages=[USER, {**earlier, "annotations": []}, USER]))
    assert parsed.messages[1].content == "a"


@pytest.mark.parametrize(
    ("body", "problem", "param"),
    [
        (b"", Problem.INVALID_JSON, None),
        (b"{", Problem.INVALID_JSON, None),
        (b"\xff\xfe{}", Problem.INVALID_JSON, None),
        (b'{"model": "\\ud800"}', Problem.INVALID_JSON, None),
        (b"[" * 1_000, Problem.INVALID_JSON, None),
        (b"[" * 20_000, Problem.TOO_MANY_VALUES, None),
        (request(messages=[0] * 20_000), Problem.TOO_MANY_VALUES, None),
        (request(**dict.fromkeys(map(str, range(20_000)), 0)), Problem.TOO_MANY_VALUES, None),
        (request(messages=[USER] * 1_025), Problem.INVALID_VALUE, "messages"),
        (messages_of({"type": "text", "text": "a"}, 1_025), Problem.INVALID_VALUE, None),
        (request(metadata=dict.fromkeys("abcdefghijklmnopq", "v")), Problem.INVALID_VALUE, None),
        (b"[]", Problem.INVALID_VALUE, None),
        (b"{}", Problem.INVALID_VALUE, "model"),
        (request(messages=[]), Problem.INVALID_VALUE, "messages"),
        (request(messages=[{"role": "nurse"}]), Problem.INVALID_VALUE, "messages[0]"),
        (request(messages=[{"role": "user", "content": []}]), Problem.INVALID_VALUE, None),
        (messages_of({"type": "text", "text": 1}), Problem.INVALID_VALUE, None),
        (messages_of({"type": "input_audio"}), Problem.INVALID_VALUE, None),
        (request(n=0), Problem.INVALID_VALUE, "n"),
        (request(frequency_penalty=2.1), Problem.INVALID_VALUE, "frequency_penalty"),
        (request(top_p=1.5), Problem.INVALID_VALUE, "top_p"),
        (request(max_tokens=0), Problem.INVALID_VALUE, "max_tokens"),
        (request(temperature=-1), Problem.INVALID_VALUE, "temperature"),
        (request(temperature=float("nan")), Problem.INVALID_VALUE, "temperature"),
        (request(seed=-1), Problem.INVALID_VALUE, "seed"),
        (request(stop=""), Problem.INVALID_VALUE, "stop"),
        (request(stop=list("abcde")), Problem.INVALID_VALUE, "stop"),
        (request(logprobs=3), Problem.INVALID_VALUE, "logprobs"),
        (request(top_logprobs=21), Problem.INVALID_VALUE, "top_logprobs"),
        (request(sonoray={"options": ["a"]}), Problem.INVALID_VALUE, "sonoray.options"),
        (request(functions=[]), Problem.UNSUPPORTED_PARAMETER, "functions"),
        (request(tools=[]), Problem.INVALID_VALUE, "tools"),
        (request(response_format={}), Problem.INVALID_VALUE, "response_format.type"),
        (request(**{CANARY: 1}), Problem.UNKNOWN_PARAMETER, None),
        (request(stream_options={CANARY: 1}), Problem.UNKNOWN_PARAMETER, "stream_options"),
    ],
)
def test_what_is_wrong_gets_its_own_error(body: bytes, problem: Problem, param: str | None):
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.problem is problem
    if param is not None:
        assert refused.value.param == param


def test_the_place_within_a_message_is_named():
    body = messages_of({"type": "image_url", "image_url": {"url": 3}})
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.param == "messages[0].content[0].image_url.url"


def test_the_largest_conversation_that_the_limits_allow_is_read():
    limits = Limits()
    earlier = {"role": "assistant", "content": "a", "refusal": None, "annotations": []}
    earlier |= {"audio": None, "function_call": None, "tool_calls": None}
    text = "," * (limits.max_prompt_chars - limits.max_messages)
    study = user_message(random_study(limits.max_images), text)
    messages = [earlier] * (limits.max_messages - 1)
    assert len(parse(request(messages=[*messages, study])).messages) == limits.max_messages


@pytest.mark.parametrize(
    "body",
    [
        request(model={CANARY: CANARY}),
        request(messages=[{"role": CANARY, "content": CANARY}]),
        request(messages=[{"role": "user", "content": CANARY, CANARY: 1}]),
        messages_of({"type": CANARY, CANARY: CANARY}),
        messages_of({"type": "image_url", "image_url": {"url": CANARY, CANARY: CANARY}}),
        request(metadata={CANARY: {CANARY: 1}}),
        request(**{CANARY: CANARY}),
        f'{{"{CANARY}'.encode(),
    ],
)
def test_nothing_of_the_request_is_echoed(body: bytes):
    with pytest.raises(ApiError) as refused:
        parse(body)
    error = refused.value
    assert CANARY not in json.dumps(error.body())
    assert error.__cause__ is None
    assert error.__context__ is None
