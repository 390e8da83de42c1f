"""From a request to a question: what makes a study, and every limit."""

import dataclasses
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sonoray.images.decode import encode_png
from sonoray_serve.http.question import Question, decode_study, read_question
from sonoray_serve.http.testing import chat_body, random_study, to_data_url, user_message
from sonoray_serve.messages import ModelCard
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


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels worth the name."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def test_images_of_one_message_are_the_study_and_decode_to_the_same_pixels():
    images = random_study(3)
    question, encoded = read(chat_body(images))
    assert question.messages == ({"role": "user", "content": "图像显示什么?"},)
    assert question.max_tokens == 16
    for decoded, original in zip(decode_study(encoded, Limits()), images, strict=True):
        np.testing.assert_array_equal(decoded.pixels, original)
        assert not decoded.is_transparent


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


def test_max_completion_tokens_wins_and_the_default_applies():
    images = random_study(1)
    assert read(chat_body(images, max_completion_tokens=7))[0].max_tokens == 7
    assert read(chat_body(images, max_tokens=None), default_tokens=5)[0].max_tokens == 5


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_study(1)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_study(1)[0]).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png_header(30_000, 30_000), Problem.IMAGE_TOO_MANY_PIXELS),
        (encode_png(np.zeros((1, 1), np.uint8)), Problem.IMAGE_TOO_SMALL),
        (jpeg()[:200], Problem.IMAGE_NOT_ACCEPTED),
        (gif(), Problem.IMAGE_NOT_ACCEPTED),
        (b"<svg/>", Problem.IMAGE_NOT_ACCEPTED),
        (b"", Problem.IMAGE_NOT_ACCEPTED),
    ],
)
def test_bad_images_are_refused_by_position(data: bytes, problem: Problem):
    good = encode_png(random_study(1)[0])
    with pytest.raises(ApiError) as caught:
        decode_study([good, data], Limits())
    assert caught.value.problem is problem
    assert caught.value.param == "images[1]"
    assert caught.value.__cause__ is None


def test_pixels_of_a_study_share_one_budget():
    images = [encode_png(image) for image in random_study(3)]  # 4,800 pixels each
    assert len(decode_study(images, Limits(max_study_pixels=14_400))) == 3
    with pytest.raises(ApiError) as caught:
        decode_study(images, Limits(max_study_pixels=14_399))
    assert caught.value.problem is Problem.IMAGE_TOO_MANY_PIXELS
    assert (caught.value.param, caught.value.limit) == ("images[2]", 4_799)


def test_urls_are_as_openai_clients_write_them():
    assert to_data_url(b"\0\1\2") == "data:image/png;base64,AAEC"
