"""What passes between the deployments: plain values and numpy arrays.

Nothing here is a tensor or comes from a client unparsed: clients send JSON and encoded images, the
ingress decodes both, and only then does anything travel inside the cluster.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from llava_ultra.recognition.bank import ClassBank
from llava_ultra.student.student_card import StudentCard
from sonoray.images.decode import Pixels
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_serve.problems import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a model's likelihoods become probabilities that hold, as its export found out."""

    temperature: float
    """What log-likelihoods are divided by before the softmax."""
    abstain_below: float
    """Probability below which the likeliest option is no answer."""
    error_rate: float
    """Share of wrong answers at or above it, on the split that it was chosen on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What the ingress needs to know of the model."""

    notice: str
    """The research-use notice."""
    digest: str
    """Sha256 (hex) of the model's manifest, which names every weight file's digest."""
    max_images: int
    context_length: int
    """Most tokens of prompt and answer together."""
    site_cue: bool
    """Whether the model was trained with the examination site in front of every question."""
    width: int
    """Of its tokens."""
    calibration: Calibration | None = None
    """How probabilities of options are made; None where nobody has measured it."""
    training: str = ""
    """Name of the training that made it; empty where nobody knows."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What it is asked before a report."""
    student: StudentCard | None = None
    """Of the student that it was exported with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What a model's student says of a study, whatever it is asked."""

    logits: npt.NDArray[np.float32]
    """(T, O): of each topic's options, in the order of its card."""
    looks: npt.NDArray[np.float32]
    """(T, K): share of each image in what a topic looks at; sums to 1 over images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedStudy:
    """A study as the language side takes it."""

    tokens: npt.NDArray[np.float32]
    """(K, P, D): K images of P tokens, already in the language model's width."""
    feature_scores: npt.NDArray[np.float32]
    """(K,): the sampler's scores from the images alone."""
    digest: str
    """Of the model that encoded it, which answers."""
    name: bytes = b""
    """What later questions call it by, as `KnownStudy`; without one it is not kept."""
    opinion: Opinion | None = None
    """Of the model's student, where it has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownStudy:
    """A study that an engine was given before, in place of the study itself.

    The name is a digest of the model and of all encoded images, or of what the DICOMweb server
    lists of the study at the time (`asking.studies`). So nobody can call a study by name without
    having its images, or without that server showing it.
    """

    name: bytes
    digest: str
    """Of the model that encoded it, which answers."""


Study = EncodedStudy | KnownStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer is decoded."""

    max_tokens: int
    temperature: float
    top_p: float
    """Share of the probability that is drawn from."""
    seed: int | None
    stop: tuple[str, ...]
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    ignore_end: bool = False
    """Whether the answer always has `max_tokens` tokens, as load generators want it."""
    num_choices: int = 1
    """Answers that are drawn; the seed of each is one more than that of the one before."""
    num_likeliest: int | None = None
    """How many of the likeliest tokens are told beside each token; None tells no scores."""
    options: tuple[str, ...] = ()
    """Answers to choose among; their likelihoods come in place of a free answer."""
    timeout_s: float
    """What is left of the request's time; decoding ends then even if nobody cancels it."""
    stream: bool
    """Whether pieces are wanted as they come; else the answer is one piece, which saves trips
    between processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The prompt is prepared: which images the answer will rest on."""

    num_prompt_tokens: int
    scores: tuple[float, ...]
    """(K,), sum 1."""
    selected: tuple[int, ...]
    """Indices of the images that the language model sees."""
    digest: str
    """Of the model that answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token's text, and how likely the model held it."""

    text: str
    data: bytes
    """Its own bytes: of a character that several tokens make, each has a part."""
    log_prob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredToken:
    """A token of the answer beside the likeliest ones at its place."""

    token: Token
    likeliest: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """More text of the answer."""

    text: str
    choice: int = 0
    """Which of the answers it belongs to."""
    tokens: tuple[ScoredToken, ...] = ()
    """The tokens since the last piece, where scores are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """How likely each of the options is as the whole answer; comes in place of pieces."""

    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of an answer."""

    reason: Literal["stop", "length", "tool_calls"]
    """`tool_calls` comes of the ingress, which reads calls out of texts; never of an engine."""
    num_tokens: int
    """Tokens that were decoded."""
    choice: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The request cannot be served, as a value: it is the client's affair and no crash."""

    problem: Problem
    limit: float | None = None
    detail: str = ""
    """What goes into the problem's text, where it has a place for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """The engine does not have the study that it was told by name, and wants the study itself."""


Event = Started | Piece | Weighed | Finished | Failed | Forgotten
"""An answer is one `Started`, any number of `Piece` or one `Weighed`, and one `Finished` of each of
its choices; `Failed` ends it early. `Forgotten` comes alone, to a `KnownStudy`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassShares:
    """What the language side says of the classes that it was asked about."""

    shares: tuple[float, ...]
    """(C,), sum 1, in the order of the classes."""
    digest: str
    """Of the model that answers."""


class VisionPort(Protocol):
    """The vision side as the ingress calls it: the class itself, or its deployment."""

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy | Failed:
        """Encode one study for a model: K images, uint8 (H, W) or (H, W, 3)."""

    async def ready(self) -> str:
        """The digest of the model that it has loaded."""


class EnginePort(Protocol):
    """The language side as the ingress calls it.

    This is the seam for other engines: what batches, caches and schedules lies behind `generate`,
    and nothing in front of it knows of it.
    """

    def generate(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages` about the study, with the model that encoded it.

        Closing the iterator cancels.
        """

    async def ready(self) -> str:
        """The digest of the model that it has loaded."""


class RecognizePort(Protocol):
    """The language side as recognition calls it."""

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes."""
