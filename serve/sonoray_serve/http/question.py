"""From a parsed request to a question about a study: texts, images, decoding options.

The images of one message are the study, or the study is named by its UID; other messages carry text
alone, so a conversation goes on about the same images when the client sends its history back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sonoray.study.prompt import names_site
from sonoray_serve.intake.study_server import PLACE, AskedUids
from sonoray_serve.messages import ModelCard, Sampling
from sonoray_serve.pictures.data_urls import read_data_url
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits
from sonoray_serve.shapes.api import ChatRequest, ImagePart, Message
from sonoray_serve.shapes.choices import Options, read_options
from sonoray_serve.shapes.tool_results import told_messages
from sonoray_serve.shapes.tools import Tools, read_tools

_LEAST_TOP_P = 1e-9
"""A share of 0 means the likeliest token alone, and so does this one."""


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
    tools: Tools | None = None
    """What may be called, or has to be."""
    stream: bool
    include_usage: bool
    thumbnails: bool
    """Whether the answer carries what the model was shown, small."""
    stored: AskedUids | None = None
    """The study of the DICOMweb server that is meant, in place of images."""

    @property
    def study_place(self) -> str:
        """The parameter that the study came in."""
        return "messages" if self.stored is None else self.stored.place

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
            options=self._choices(),
            timeout_s=timeout_s,
            stream=self.stream and self.tools is None,  # a call is known at its end
        )

    def _choices(self) -> tuple[str, ...]:
        """Answers to be weighed in place of a free one."""
        if self.options is not None:
            return self.options.texts
        return () if self.tools is None else self.tools.texts


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
    roles = [message.role for message in request.messages]
    if last.role not in ("user", "tool") or "user" not in roles:
        raise ApiError(Problem.LAST_MESSAGE_NOT_USER, place)
    texts = [_text(message) for message in request.messages]
    is_chat = place == "messages"
    asks = len(roles) - 1 - roles[::-1].index("user")
    if not texts[asks].strip():
        where = f"messages[{asks}].content" if is_chat else place
        raise ApiError(Problem.EMPTY_QUESTION, where)
    for number, message in enumerate(request.messages):
        if message.role == "assistant" and message.content is None and not message.tool_calls:
            raise ApiError(Problem.EMPTY_ANSWER, f"messages[{number}].content")
    first = roles.index("user")
    if card.site_cue and not names_site(texts[first]):
        raise ApiError(Problem.NO_SITE, f"messages[{first}].content" if is_chat else place)
    max_tokens = request.max_completion_tokens or request.max_tokens or limits.default_tokens
    if max_tokens > limits.max_tokens:
        raise ApiError(Problem.MAX_TOKENS_TOO_LARGE, "max_tokens", limits.max_tokens)
    num_choices = request.n or 1
    if num_choices > limits.max_choices:
        raise ApiError(Problem.TOO_MANY_CHOICES, "n", limits.max_choices)
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(Problem.LOGPROBS_NEEDED, "top_logprobs")
    tools = read_tools(request)
    told = told_messages(request.messages, texts, tools)
    if sum(len(message["content"]) for message in told) > limits.max_prompt_chars:
        raise ApiError(Problem.PROMPT_TOO_LONG, place, limits.max_prompt_chars)
    question = Question(
        messages=tuple(told),
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
        tools=tools,
        stream=bool(request.stream),
        include_usage=request.include_usage,
        thumbnails=request.sonoray is not None and request.sonoray.thumbnails,
        stored=_stored(request),
    )
    images = _study(request.messages, limits, card)
    if question.stored is not None and images:
        raise ApiError(Problem.STUDY_AND_IMAGES, PLACE)
    if question.stored is None and len(images) < limits.min_images:
        raise ApiError(Problem.TOO_FEW_IMAGES, "messages", limits.min_images)
    return question, images


def _stored(request: ChatRequest) -> AskedUids | None:
    said = request.sonoray
    if said is None or (said.study is None and said.instances is None):
        return None
    return read_uids(said.study, said.instances, PLACE)


def read_uids(study: str | None, instances: Sequence[str] | None, place: str) -> AskedUids:
    """A study of the DICOMweb server, as a request names it.

    Raises:
        ApiError: 400; instances of no study.
    """
    if study is None:
        raise ApiError(Problem.NO_STUDY_NAMED, place)
    return AskedUids(study=study, instances=tuple(instances or ()), place=place)


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        return ""
    return "\n".join(part.text for part in message.content if part.type == "text")


def _study(messages: Sequence[Message], limits: Limits, card: ModelCard) -> tuple[bytes, ...]:
    images: tuple[bytes, ...] = ()
    for number, message in enumerate(messages):
        places = [
            (f"messages[{number}].content[{position}].image_url.url", part.image_url.url)
            for position, part in enumerate(message.content or ())
            if isinstance(part, ImagePart)
        ]
        if not places:
            continue
        if images:
            raise ApiError(Problem.SEVERAL_STUDIES, f"messages[{number}].content")
        images = read_study(places, f"messages[{number}].content", limits, card)
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
    return tuple(read_data_url(url, where, limits) for where, url in urls)
