"""From a request to a question: what makes a study, and every limit."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from sonoray_serve.http.question import Question, read_question
from sonoray_serve.http.testing import chat_body, random_study, to_data_url, user_message
from sonoray_serve.messages import ModelCard
from sonoray_serve.pictures.study_pictures import Picture, StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits
from sonoray_serve.shapes.api import ChatRequest, parse_request

CARD = ModelCard(notice="n", digest="d", max_images=4, context_length=256, site_cue=False, width=8)


def read(
    body: dict[str, Any], card: ModelCard = CARD, **limits: Any
) -> tuple[Question, tuple[bytes, ...]]:
    checked = Limits(**limits)
    request = parse_request(ChatRequest, json.dumps(body).encode(), checked.max_marks)
    return read_question(request, checked, card)


def decode(encoded: tuple[bytes, ...]) -> list[Picture]:
    return StudyPictures(Limits()).decode(encoded, 16)


def refused(body: dict[str, Any], **limits: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body, **limits)
    assert caught.value.problem.status == 400
    return caught.value


def with_url(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return chat_body(
        [], messages=[{"role": "user", "content": [{"type": "text", "text": "q"}, part]}]
    )


def test_images_of_one_message_are_the_study_and_decode_to_the_same_pixels():
    images = random_study(3)
    question, encoded = read(chat_body(images))
    assert question.messages == ({"role": "user", "content": "图像显示什么?"},)
    assert question.max_tokens == 16
    for picture, original in zip(decode(encoded), images, strict=True):
        np.testing.assert_array_equal(picture.pixels, original)
        assert not picture.is_transparent


def test_a_conversation_goes_on_about_the_study_of_its_first_message():
    messages = [
        {"role": "developer", "content": "be brief"},
        user_message(random_study(2), "first?"),
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    question, encoded = read(chat_body([], messages=messages))
    assert len(encoded) == 2
    assert [(m["role"], m["content"]) for m in question.messages] == [
        ("system", "be brief"),
        ("user", "first?"),
        ("assistant", "yes"),
        ("user", "a\nb"),
    ]


def test_a_model_that_was_told_the_site_is_not_asked_without_it():
    card = dataclasses.replace(CARD, site_cue=True)
    cued = "检查部位：肝脏。大小？"
    for question in ("大小？", "检查部位：。大小？", f"请看。{cued}"):
        with pytest.raises(ApiError) as caught:
            read(chat_body(random_study(1), question=question), card)
        assert caught.value.problem is Problem.NO_SITE
        assert "检查部位：SITE。" in caught.value.body()["error"]["message"]
    read(chat_body(random_study(1), question="大小？"))
    read(chat_body(random_study(1), question=cued), card)
    answered = [{"role": "assistant", "content": "12mm"}, {"role": "user", "content": "边界？"}]
    body = chat_body([], messages=[user_message(random_study(1), cued), *answered])
    read(body, card)  # the conversation has named it


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "data:;base64,AAAA",
        "",
    ],
)
def test_only_data_urls_of_images_are_taken(url: str):
    error = refused(with_url(url))
    assert error.problem is Problem.IMAGE_URL_NOT_DATA
    assert error.param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("payload", ["not base64!", "AAA", "AAAA\n", "é"])
def test_broken_base64_is_refused(payload: str):
    assert refused(with_url(f"data:image/png;base64,{payload}")).problem is Problem.IMAGE_NOT_BASE64


@pytest.mark.parametrize(
    ("body", "limits", "problem"),
    [
        (chat_body([]), {"min_images": 1}, Problem.TOO_FEW_IMAGES),
        (chat_body(random_study(1), question="  "), {}, Problem.EMPTY_QUESTION),
        (chat_body(random_study(5)), {}, Problem.TOO_MANY_IMAGES),  # the model takes 4
        (chat_body(random_study(3)), {"max_images": 2}, Problem.TOO_MANY_IMAGES),
        (chat_body(random_study(1), question="q" * 9), {"max_prompt_chars": 8}, None),
        (chat_body(random_study(1), max_tokens=99), {"max_tokens": 98, "default_tokens": 1}, None),
        (chat_body(random_study(1)), {"max_image_bytes": 1000}, Problem.IMAGE_TOO_LARGE),
        (
            chat_body([], messages=[user_message(random_study(1))] * 2),
            {},
            Problem.SEVERAL_STUDIES,
        ),
        (
            chat_body([], messages=[user_message(random_study(1))] * 3),
            {"max_messages": 2},
            Problem.TOO_MANY_MESSAGES,
        ),
        (
            chat_body(
                [],
                messages=[user_message(random_study(1)), {"role": "assistant", "content": "a"}],
            ),
            {},
            Problem.LAST_MESSAGE_NOT_USER,
        ),
    ],
)
def test_limits_and_rules(body: dict[str, Any], limits: dict[str, Any], problem: Problem | None):
    error = refused(body, **limits)
    assert problem is None or error.problem is problem
    if limits:
        assert error.limit in limits.values()


def test_all_that_the_decoder_is_told_counts_against_the_limit():
    """The text of a message, and the tools and results that are put into the prompt around it."""
    parameters = {"type": "object", "properties": {"p" * 3000: {"type": "string"}}}
    offer = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    body = chat_body(random_study(1), tools=[offer])
    assert refused(body, max_prompt_chars=3000).problem is Problem.PROMPT_TOO_LONG
    told = sum(len(each["content"]) for each in read(body)[0].messages)
    assert told > 3000
    assert read(body, max_prompt_chars=told)[0].messages[0]["role"] == "system"
    assert refused(body, max_prompt_chars=told - 1).limit == told - 1
    name = "n" * 64
    made = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    asked = [
        *chat_body(random_study(1), question="q")["messages"],
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ]
    after = chat_body([], messages=asked)
    assert refused(after, max_prompt_chars=64).problem is Problem.PROMPT_TOO_LONG
    assert read(after)[0].messages[0]["content"] == f"Tool {name}: r. q"


def test_max_completion_tokens_wins_and_the_default_applies():
    images = random_study(1)
    assert read(chat_body(images, max_completion_tokens=7))[0].max_tokens == 7
    assert read(chat_body(images, max_tokens=None), default_tokens=5)[0].max_tokens == 5


def test_urls_are_as_openai_clients_write_them():
    assert to_data_url(b"\0\1\2") == "data:image/png;base64,AAEC"
