"""The OpenAI shapes of answers: chat, its chunks, plain completion, embedding, models, errors.

Answers add one object to OpenAI's shape: `sonoray`, with the images' scores, the selection, the
probabilities of a closed question, the model's digest and the research-use notice.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from sonoray_serve.shapes.tool_shapes import CallChunk, CallMade


class ImageUse(BaseModel):
    """What became of one image of the study."""

    index: int
    """Position among the study's pictures, from 0."""
    part: int = 0
    """Which of the request's images, or of the study's objects, it comes from: a DICOM object may
    give several pictures."""
    frame: int = 0
    """Position in the loop that it was taken from; 0 of a still."""
    instance: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """SOP Instance UID of the object, where the request names its study by UID."""
    score: float
    """Share of the sampler's attention, or of a student's; the scores of a study sum to 1."""
    selected: bool
    """Whether the answer rests on it: whether the language model saw it; a student sees all."""
    transparent: bool = False
    """Whether some of its pixels were transparent: the model is shown it over black."""
    thumbnail: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the model was shown, as a small JPEG, where the request asks for it."""


class OptionUse(BaseModel):
    """How likely one option of a closed question is."""

    text: str
    probability: float
    """The probabilities of all options sum to 1."""
    log_likelihood: float
    """Of the option's tokens as the whole answer, before any calibration."""


class ClosedAnswer(BaseModel):
    """The choice among a closed question's options."""

    options: list[OptionUse]
    """In the order of the request."""
    calibrated: bool
    """Whether the model's export fitted a temperature, so that what gets 70 % holds in 70 of 100
    cases like those of its validation split."""
    temperature: float
    """What the log-likelihoods were divided by."""
    abstain: bool | None = None
    """Whether the likeliest option has less than `abstain_below`: then it is no answer to use.
    Absent where the export chose no threshold."""
    abstain_below: float | None = None
    error_rate: float | None = None
    """Share of wrong answers at or above the threshold, on the split that it was chosen on."""


class Asked(BaseModel):
    """A closed question that the service put to its model before a report, and the answer."""

    question: str
    answer: str


class SonoRay(BaseModel):
    """What an answer says beyond OpenAI's shape."""

    images: list[ImageUse]
    asked_first: list[Asked] = []
    """What the report follows: of a model trained with `train.closed_first`."""
    closed: ClosedAnswer | None = None
    """Where the request has options."""
    left_out: dict[str, int] = Field(default={}, exclude_if=lambda value: not value)
    """Of a study that was fetched by its UID: objects that gave no picture, by reason."""
    remarks: list[str] = []
    """What a reader must know of this answer, one line each: forms that no training has shown."""
    notice: str
    """The research-use notice."""
    model: str
    answered_by: Literal["model", "student"] = "model"
    """Who gave the answer: the model, or the student that it was exported with."""
    digest: str
    """Sha256 of the served model's manifest."""


class Usage(BaseModel):
    """Token counts; image tokens are part of the prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenLogprob(BaseModel):
    """A token and how likely the model held it."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TokenLogprob):
    """A token of the answer beside the likeliest ones at its place."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """The tokens of an answer, or of a chunk."""

    content: list[TokenLogprobs]
    refusal: None = None


FinishReason = Literal["stop", "length", "tool_calls"]


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """None where a tool is called."""
    refusal: None = None
    tool_calls: list[CallMade] | None = Field(default=None, exclude_if=lambda value: value is None)


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None = None
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
    tool_calls: list[CallChunk] | None = None


class ChunkChoice(BaseModel):
    """Of which answer a chunk is a piece."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
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


def to_chunk(chunk: "ChatChunk | Completion") -> bytes:
    """One event of a stream; absent fields are left out."""
    values = chunk.model_dump(exclude_none=True)
    for choice in values["choices"]:  # OpenAI requires these keys, though they are null
        choice.setdefault("finish_reason", None)
        if "logprobs" in choice:
            choice["logprobs"].setdefault("refusal", None)
    return to_event(values)


def to_event(values: dict[str, Any]) -> bytes:
    """Format JSON as one server-sent event."""
    return b"data: " + json.dumps(values, ensure_ascii=False).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"


class CompletionChoice(BaseModel):
    """One of the texts of a plain completion, or a piece of it."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None = None


class Completion(BaseModel):
    """A plain completion, or one event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    sonoray: SonoRay | None = None


class Embedding(BaseModel):
    """The vector of a study."""

    object: Literal["embedding"] = "embedding"
    index: Literal[0] = 0
    embedding: list[float] | str
    """Of length 1; as base64 of little-endian float32 where the request wants it."""


class EmbeddingUsage(BaseModel):
    """Token counts of an embedding."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    sonoray: SonoRay


class ErrorObject(BaseModel):
    """OpenAI's error object; `sonoray_serve.problems` has all codes and texts."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Answer of a request that is refused or failed."""

    error: ErrorObject


class Status(BaseModel):
    """Answer of the health paths."""

    status: Literal["ok"] = "ok"


class ModelObject(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sonoray"
    max_model_len: int
    """Most tokens of prompt and answer together, by the name that vLLM gives it."""
    digest: str
    """Sha256 of the model's manifest; no word of OpenAI's."""


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    takes_study_uid: bool = False
    """Whether a request may name a study of a DICOMweb server by its UID; no word of OpenAI's."""
