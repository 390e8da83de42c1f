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
from sonoray_serve.messages import ModelCard, Sampling
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits
from sonoray_serve.shapes.api import ChatRequest, ImagePart, Message
from sonoray_serve.shapes.choices import Options, read_options

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
    place: str
    """The parameter that it came in."""
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    frequency_penalty: float
    presence_penalty: float
    ignore_end: bool
    num_choices: int
    num_likeliest: int | None
    options: Options | None
    """Of a closed question."""
    stream: bool
    include_usage: bool

    def sampling(self, timeout_s: float) -> Sampling:
        """What the engine is told."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            ignore_end=self.ignore_end,
            num_choices=self.num_choices,
            num_likeliest=self.num_likeliest,
            options=self.options.texts if self.options else (),
            timeout_s=timeout_s,
            stream=self.stream,
        )


def read_question(
    request: ChatRequest, limits: Limits, card: ModelCard, *, place: str = "messages"
) -> tuple[Question, tuple[bytes, ...]]:
    """Check a request against the limits and take it apart; no pixel is decoded yet.

    Args:
        request: the parsed body.
        limits: the service's.
        card: of the model.
        place: the parameter that holds the conversation.

    Returns:
        The question, and the encoded images of its study: apart, because they are megabytes that
        nobody needs once they are decoded.

    Raises:
        ApiError: 400, with the place of what is wrong.
    """
    if len(request.messages) > limits.max_messages:
        raise ApiError(Problem.TOO_MANY_MESSAGES, place, limits.max_messages)
    last = request.messages[-1]
    if last.role != "user":
        raise ApiError(Problem.LAST_MESSAGE_NOT_USER, place)
    texts = [_text(message) for message in request.messages]
    is_chat = place == "messages"
    if not texts[-1].strip():
        where = f"messages[{len(texts) - 1}].content" if is_chat else place
        raise ApiError(Problem.EMPTY_QUESTION, where)
    first = [message.role for message in request.messages].index("user")
    if card.site_cue and not names_site(texts[first]):
        raise ApiError(Problem.NO_SITE, f"messages[{first}].content" if is_chat else place)
    if sum(map(len, texts)) > limits.max_prompt_chars:
        raise ApiError(Problem.PROMPT_TOO_LONG, place, limits.max_prompt_chars)
    max_tokens = request.max_completion_tokens or request.max_tokens or limits.default_tokens
    if max_tokens > limits.max_tokens:
        raise ApiError(Problem.MAX_TOKENS_TOO_LARGE, "max_tokens", limits.max_tokens)
    num_choices = request.n or 1
    if num_choices > limits.max_choices:
        raise ApiError(Problem.TOO_MANY_CHOICES, "n", limits.max_choices)
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(Problem.LOGPROBS_NEEDED, "top_logprobs")
    question = Question(
        messages=tuple(
            {"role": "system" if message.role == "developer" else message.role, "content": text}
            for message, text in zip(request.messages, texts, strict=True)
        ),
        place=place,
        max_tokens=max_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else max(request.top_p, _LEAST_TOP_P),
        seed=request.seed,
        stop=request.stop_texts,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        ignore_end=bool(request.ignore_eos),
        num_choices=num_choices,
        num_likeliest=(request.top_logprobs or 0) if request.logprobs else None,
        options=read_options(request),
        stream=bool(request.stream),
        include_usage=request.include_usage,
    )
    return question, _study(request.messages, limits, card)


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


def _study(messages: Sequence[Message], limits: Limits, card: ModelCard) -> tuple[bytes, ...]:
    images: tuple[bytes, ...] = ()
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
        images = read_study(places, f"messages[{number}].content", limits, card)
    if len(images) < limits.min_images:
        raise ApiError(Problem.TOO_FEW_IMAGES, "messages", limits.min_images)
    return images


def read_study(
    urls: Sequence[tuple[str, str]], place: str, limits: Limits, card: ModelCard
) -> tuple[bytes, ...]:
    """The encoded images of a study, none of them decoded yet.

    Args:
        urls: place and data: URL of each image.
        place: of all of them.
        limits: the service's.
        card: of the model.

    Raises:
        ApiError: 400, with the place of what is wrong.
    """
    max_images = min(limits.max_images, card.max_images)
    if len(urls) > max_images:
        raise ApiError(Problem.TOO_MANY_IMAGES, place, max_images)
    return tuple(read_data_url(url, where, limits.max_image_bytes) for where, url in urls)


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
