"""From a parsed request to a question about a study: texts, images, decoding options.

The images of one message are the study; other messages carry text alone, so a conversation goes on
about the same images when the client sends its history back. Only `data:` URLs are taken: a server
that fetches addresses for its clients reaches what they cannot.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sonoray.images.decode import Decoded, ImageLimits, RejectedImageError, decode_picture
from sonoray.study.prompt import names_site
from sonoray_serve.http.api import ChatRequest, ImagePart, Message
from sonoray_serve.messages import ModelCard
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)

_LEAST_TOP_P = 1e-9
"""A share of 0 means the likeliest token alone, and so does this one."""

_REJECTIONS = {
    "too_many_bytes": Problem.IMAGE_TOO_LARGE,
    "too_many_pixels": Problem.IMAGE_TOO_MANY_PIXELS,
    "too_small": Problem.IMAGE_TOO_SMALL,
}
"""Reasons of `sonoray.images.decode` that have an error of their own; others share one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A conversation that ends in a question, and how to answer it."""

    messages: tuple[dict[str, str], ...]
    """`role` (system, user, assistant) and `content`."""
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def read_question(
    request: ChatRequest, limits: Limits, card: ModelCard
) -> tuple[Question, tuple[bytes, ...]]:
    """Check a request against the limits and take it apart; no pixel is decoded yet.

    Returns:
        The question, and the encoded images of its study: apart, because they are megabytes that
        nobody needs once they are decoded.

    Raises:
        ApiError: 400, with the place of what is wrong.
    """
    if len(request.messages) > limits.max_messages:
        raise ApiError(Problem.TOO_MANY_MESSAGES, "messages", limits.max_messages)
    last = request.messages[-1]
    if last.role != "user":
        raise ApiError(Problem.LAST_MESSAGE_NOT_USER, "messages")
    texts = [_text(message) for message in request.messages]
    if not texts[-1].strip():
        raise ApiError(Problem.EMPTY_QUESTION, f"messages[{len(texts) - 1}].content")
    first = [message.role for message in request.messages].index("user")
    if card.site_cue and not names_site(texts[first]):
        raise ApiError(Problem.NO_SITE, f"messages[{first}].content")
    if sum(map(len, texts)) > limits.max_prompt_chars:
        raise ApiError(Problem.PROMPT_TOO_LONG, "messages", limits.max_prompt_chars)
    max_tokens = request.max_completion_tokens or request.max_tokens or limits.default_tokens
    if max_tokens > limits.max_tokens:
        raise ApiError(Problem.MAX_TOKENS_TOO_LARGE, "max_tokens", limits.max_tokens)
    question = Question(
        messages=tuple(
            {"role": "system" if message.role == "developer" else message.role, "content": text}
            for message, text in zip(request.messages, texts, strict=True)
        ),
        max_tokens=max_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else max(request.top_p, _LEAST_TOP_P),
        seed=request.seed,
        stop=request.stop_texts,
        stream=bool(request.stream),
        include_usage=request.include_usage,
    )
    max_images = min(limits.max_images, card.max_images)
    return question, _study(request.messages, limits, max_images)


def decode_study(images: Sequence[bytes], limits: Limits) -> list[Decoded]:
    """Decode the images of a study, each header first, under one budget of pixels.

    Raises:
        ApiError: 400, with the image's position in the study.
    """
    decoded: list[Decoded] = []
    left = limits.max_study_pixels
    for index, data in enumerate(images):
        max_pixels = min(limits.max_image_pixels, left)
        accepted = ImageLimits(max_bytes=limits.max_image_bytes, max_pixels=max(max_pixels, 1))
        try:
            picture = decode_picture(data, accepted)
        except RejectedImageError as error:
            problem = _REJECTIONS.get(error.reason, Problem.IMAGE_NOT_ACCEPTED)
            cap = {
                Problem.IMAGE_TOO_LARGE: limits.max_image_bytes,
                Problem.IMAGE_TOO_MANY_PIXELS: max_pixels,
            }.get(problem)
            raise ApiError(problem, f"images[{index}]", cap) from None
        left -= picture.pixels.shape[0] * picture.pixels.shape[1]
        decoded.append(picture)
    return decoded


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if part.type == "text")


def _study(messages: Sequence[Message], limits: Limits, max_images: int) -> tuple[bytes, ...]:
    images: list[bytes] = []
    for number, message in enumerate(messages):
        places = [
            (f"messages[{number}].content[{position}].image_url.url", part.image_url.url)
            for position, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]
        if not places:
            continue
        if images:
            raise ApiError(Problem.SEVERAL_STUDIES, f"messages[{number}].content")
        if len(places) > max_images:
            raise ApiError(Problem.TOO_MANY_IMAGES, f"messages[{number}].content", max_images)
        images = [read_data_url(url, place, limits.max_image_bytes) for place, url in places]
    if not images:
        raise ApiError(Problem.NO_IMAGE, "messages")
    return tuple(images)


def read_data_url(url: str, place: str, max_bytes: int) -> bytes:
    """The encoded image in a `data:` URL.

    Raises:
        ApiError: 400, with its place in the request.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise ApiError(Problem.IMAGE_URL_NOT_DATA, place)
    if (len(url) - head.end()) * 3 // 4 > max_bytes + 2:  # before any copy is made; 2 of padding
        raise ApiError(Problem.IMAGE_TOO_LARGE, place, max_bytes)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(Problem.IMAGE_NOT_BASE64, place) from None
