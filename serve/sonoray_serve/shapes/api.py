"""The OpenAI shapes of requests: chat, plain completion, embedding.

Requests are parsed from bytes by pydantic (its JSON reader refuses deep nesting and lone
surrogates). A parameter that would change the answer and is not supported is refused by name
instead of ignored; those that this server cannot vary are accepted at their neutral value, because
clients send them unasked. Images come as data: URLs in one message; that message's images are the
study. What answers hold is in `sonoray_serve.shapes.answers`.

Beside OpenAI's parameters a request may have `sonoray`: the options of a closed question, or the
UID of a study in place of its images.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import MAX_ITEMS
from sonoray_serve.shapes.tool_shapes import (
    MAX_CALLS,
    MAX_TOOLS,
    CallId,
    FunctionCall,
    FunctionSpec,
    Tool,
    ToolCall,
    ToolChoice,
)
from sonoray_serve.shapes.tool_shapes import Shape as _Request

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_LIKELIEST = 20
"""Most tokens that `top_logprobs` may ask for, as in OpenAI's API."""

MAX_OPTIONS = 64
"""Options of a closed question."""

MAX_OPTION_CHARS = 256
"""Characters of an option."""

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
        "service_tier",
        "tool_choice",
        "tools",
        "verbosity",
        "web_search_options",
    }
)
"""Parameters of OpenAI's API that are refused by name."""


class TextPart(_Request):
    """Text within a message."""

    type: Literal["text"]
    text: str


Uid = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=64)]
"""A UID of DICOM (PS3.5 section 9.1), also with the leading zeros that archives have."""

OptionText = Annotated[str, Field(min_length=1, max_length=MAX_OPTION_CHARS)]


class ImageUrl(_Request):
    """Where an image is: `data:image/...;base64,` or `data:application/dicom;base64,`."""

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
    content: str | _Items[TextPart] | None = None
    """Absent where it called tools."""
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_CALLS)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolMessage(_Request):
    """What a tool that the model called has answered."""

    role: Literal["tool"]
    content: str | _Items[TextPart]
    tool_call_id: CallId


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class StreamOptions(_Request):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """Add a last chunk with the token counts."""
    include_obfuscation: bool | None = None
    """Accepted and without effect."""


class JsonSchema(_Request):
    """The schema of an answer that is a choice; read by `sonoray_serve.shapes.choices`."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Request):
    """The form of the answer."""

    type: Literal["text", "json_schema", "json_object"]
    json_schema: JsonSchema | None = None


class SonoRayRequest(_Request):
    """What this server takes beyond OpenAI's parameters."""

    options: Annotated[list[OptionText], Field(min_length=2, max_length=MAX_OPTIONS)] | None = None
    """The answers to choose among: the likeliest is the answer, and each gets a probability."""
    study: Uid | None = None
    """Study Instance UID: asks about that study of the service's DICOMweb server, in place of
    images."""
    instances: Annotated[list[Uid], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    """SOP Instance UIDs of that study, where not all of it is meant."""
    thumbnails: bool = False
    """Show what the model was shown: a small JPEG of each picture, which of a DICOM object nobody
    else has."""


class _Completing(_Request):
    """What chat and plain completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
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
    n: int | None = Field(default=None, ge=1, le=MAX_ITEMS)
    """Answers to draw; with a seed, the next one has the next seed."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken from a token's logit for each time that the answer has it."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken once from the logit of a token that the answer has."""
    ignore_eos: bool | None = None
    """Never ends before `max_tokens`, as load generators want it; no parameter of OpenAI's."""
    user: str | None = None
    """Accepted and dropped: nothing of a request is kept."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Completing):
    """Body of `POST /v1/chat/completions`."""

    messages: _Items[Message]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`; it wins where both are given."""
    logprobs: bool | None = None
    """Tell each token's log-probability, before penalties and temperature."""
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LIKELIEST)
    """How many of the likeliest tokens are told beside each."""
    response_format: ResponseFormat | None = None
    """Free text, or a choice among the values of an enum."""
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    """Functions that the model may call; the client runs them."""
    tool_choice: ToolChoice | None = None
    """Whether one is called; see `sonoray_serve.shapes.tools`."""
    parallel_tool_calls: bool | None = None
    """Accepted and without effect: an answer has one call at most."""
    sonoray: SonoRayRequest | None = None
    store: Literal[False] | None = None
    safety_identifier: str | None = None
    """Accepted and dropped, as is the next."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


class CompletionRequest(_Completing):
    """Body of `POST /v1/completions`: a question as plain text, without a study."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    logprobs: None = None

    def as_chat(self) -> ChatRequest:
        """The same question as a conversation."""
        shared = {name: getattr(self, name) for name in _Completing.model_fields}
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return ChatRequest(messages=[UserMessage(role="user", content=text)], **shared)


class EmbeddingRequest(_Request):
    """Body of `POST /v1/embeddings`: a study's images, as data: URLs."""

    model: str
    input: str | _Items[str]
    """One image, or all images of one study."""
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


_Body = TypeVar("_Body", bound=BaseModel)


def parse_request(kind: type[_Body], body: bytes, max_marks: int) -> _Body:
    """Read a request's body.

    Args:
        kind: what it should be.
        body: the JSON.
        max_marks: commas and opening brackets that it may have. They bound the values in it, and
            pydantic may need a kilobyte for each: it collects an error per item and unknown key.

    Raises:
        ApiError: 400; `param` names the field, built from the API's own names and positions only.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > max_marks:
        raise ApiError(Problem.TOO_MANY_VALUES, limit=max_marks)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    detail = max(details, key=lambda detail: len(detail["loc"]))  # a union reports each member
    where = detail["loc"]
    if detail["type"] == "json_invalid":
        raise ApiError(Problem.INVALID_JSON)
    if detail["type"] != "extra_forbidden":
        raise ApiError(Problem.INVALID_VALUE, _param(where, kind), detail=_limit(detail))
    if len(where) == 1 and where[0] in _UNSUPPORTED:
        raise ApiError(Problem.UNSUPPORTED_PARAMETER, str(where[0]))
    raise ApiError(Problem.UNKNOWN_PARAMETER, _param(where[:-1], kind))


_LIMITS = {
    "too_long": "at most {max_length} are accepted",
    "string_too_long": "at most {max_length} characters are accepted",
    "string_pattern_mismatch": "it must match {pattern}",
}


def _limit(detail: "ErrorDetails") -> str:
    """The limit that a value breaks, as the shapes of the API have it; empty where it is none."""
    if detail["type"] == "tool_schema":
        return f"; {detail['msg']}"
    form = _LIMITS.get(detail["type"])
    return f"; {form.format(**detail['ctx'])}" if form else ""


_FIELD_NAMES = frozenset(
    name
    for model in (
        *(ChatRequest, CompletionRequest, EmbeddingRequest, StreamOptions, UserMessage),
        *(AssistantMessage, ResponseFormat, JsonSchema, SonoRayRequest, ToolMessage),
        *(Tool, FunctionSpec, ToolCall, FunctionCall),
    )
    for name in model.model_fields
) | {"type", "text", "image_url", "url", "detail", "schema"}


def _param(where: tuple[int | str, ...], kind: type[BaseModel]) -> str | None:
    """Render a location as `messages[0].content[1].image_url`, with the API's own names only.

    After a position pydantic names the chosen member of the union (`user`, `text`), which is no
    part of the path; lists of tools and of calls are of no union.
    """
    path = ""
    after_position = False
    is_union = True
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif (part in _FIELD_NAMES or part in kind.model_fields) and not after_position:
            path += f".{part}" if path else part
        after_position = isinstance(part, int) and is_union
        is_union = part not in ("tools", "tool_calls")
    return path or None
