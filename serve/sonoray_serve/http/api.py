"""The OpenAI chat shapes: what a request may hold, what an answer holds.

Requests are parsed from bytes by pydantic (its JSON reader refuses deep nesting and lone
surrogates). A parameter that would change the answer and is not supported is refused instead of
ignored; parameters that this server cannot vary are accepted at their neutral value, because
clients send those unasked (`n` = 1, penalties of 0). Images come as data: URLs in one
message; that message's images are the study.

Answers add one object to OpenAI's shape: `sonoray`, with the images' scores, the selection, the
model's digest and the research-use notice.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import MAX_ITEMS

_Item = TypeVar("_Item")
_Items = Annotated[list[_Item], Field(min_length=1, max_length=MAX_ITEMS)]

_UNSUPPORTED = frozenset(
    {
        "audio",
        "function_call",
        "functions",
        "logit_bias",
        "modalities",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "service_tier",
        "tool_choice",
        "tools",
        "top_logprobs",
        "verbosity",
        "web_search_options",
    }
)
"""Parameters of OpenAI's API that are refused by name."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextPart(_Request):
    """Text within a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Request):
    """Where an image is: only `data:image/...;base64,` is accepted."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None
    """Accepted and without effect: the encoders have one resolution."""


class ImagePart(_Request):
    """One image of the study."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(_Request):
    """Instructions that precede the conversation."""

    role: Literal["system", "developer"]
    content: str | _Items[TextPart]
    name: str | None = None


class UserMessage(_Request):
    """A question, with or without the study's images."""

    role: Literal["user"]
    content: str | _Items[Part]
    name: str | None = None


class AssistantMessage(_Request):
    """An earlier answer, also as clients send back what they received."""

    role: Literal["assistant"]
    content: str | _Items[TextPart]
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(_Request):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """Add a last chunk with the token counts."""
    include_obfuscation: bool | None = None
    """Accepted and without effect."""


class ChatRequest(_Request):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: _Items[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`; it wins where both are given."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 or absent: the most likely token each time, so equal requests give equal answers."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draws from the likeliest tokens that together have this share; 1 or absent: from all."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: (
        Annotated[str, Field(min_length=1, max_length=64)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=4)]
        | None
    ) = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    store: Literal[False] | None = None
    user: str | None = None
    """Accepted and dropped, as are the next two: nothing of a request is kept."""
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_chat_request(body: bytes, max_marks: int) -> ChatRequest:
    """Read a request's body.

    Args:
        body: the JSON.
        max_marks: commas and opening brackets that it may have. They bound the values in it, and
            pydantic may need a kilobyte for each: it collects an error per item and unknown key.

    Raises:
        ApiError: 400; `param` names the field, built from the API's own names and positions only.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > max_marks:
        raise ApiError(Problem.TOO_MANY_VALUES, limit=max_marks)
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    detail = max(details, key=lambda detail: len(detail["loc"]))  # a union reports each member
    where = detail["loc"]
    if detail["type"] == "json_invalid":
        raise ApiError(Problem.INVALID_JSON)
    if detail["type"] != "extra_forbidden":
        raise ApiError(Problem.INVALID_VALUE, _param(where))
    if len(where) == 1 and where[0] in _UNSUPPORTED:
        raise ApiError(Problem.UNSUPPORTED_PARAMETER, str(where[0]))
    raise ApiError(Problem.UNKNOWN_PARAMETER, _param(where[:-1]))


_FIELD_NAMES = frozenset(
    name
    for model in (ChatRequest, StreamOptions, UserMessage, AssistantMessage)
    for name in model.model_fields
) | {"type", "text", "image_url", "url", "detail"}


def _param(where: tuple[int | str, ...]) -> str | None:
    """Render a location as `messages[0].content[1].image_url`, with the API's own names only.

    After a position pydantic names the chosen member of the union (`user`, `text`), which is no
    part of the path.
    """
    path = ""
    after_position = False
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _FIELD_NAMES and not after_position:
            path += f".{part}" if path else part
        after_position = isinstance(part, int)
    return path or None


class ImageUse(BaseModel):
    """What became of one image of the study."""

    index: int
    """Position among the request's images, from 0."""
    score: float
    """Share of the sampler's attention; the scores of a study sum to 1."""
    selected: bool
    """Whether the language model saw it."""
    transparent: bool = False
    """Whether some of its pixels were transparent: the model is shown it over black."""


class Asked(BaseModel):
    """A closed question that the service put to its model before a report, and the answer."""

    question: str
    answer: str


class SonoRay(BaseModel):
    """What an answer says beyond OpenAI's shape."""

    images: list[ImageUse]
    asked_first: list[Asked] = []
    """What the report follows: of a model trained with `train.closed_first`."""
    notice: str
    """The research-use notice."""
    model: str
    digest: str
    """Sha256 of the served model's manifest."""


class Usage(BaseModel):
    """Token counts; image tokens are part of the prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length"]


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    sonoray: SonoRay


class Delta(BaseModel):
    """What a chunk adds; absent fields are left out on the wire."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """One event of a streamed answer; `sonoray` stands on the last one."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    sonoray: SonoRay | None = None

    def to_event(self) -> bytes:
        """The chunk as a server-sent event."""
        values = self.model_dump(exclude_none=True)
        for choice in values["choices"]:  # OpenAI requires this key, null until the end
            choice.setdefault("finish_reason", None)
        return to_event(values)


def to_event(values: dict[str, Any]) -> bytes:
    """Format JSON as one server-sent event."""
    return b"data: " + json.dumps(values, ensure_ascii=False).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"


class ModelObject(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sonoray"


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
