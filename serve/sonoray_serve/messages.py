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
from sonoray.images.decode import Pixels
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_serve.problems import Problem


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
    training: str = ""
    """Name of the training that made it; empty where nobody knows."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What it is asked before a report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedStudy:
    """A study as the language side takes it."""

    tokens: npt.NDArray[np.float32]
    """(K, P, D): K images of P tokens, already in the language model's width."""
    feature_scores: npt.NDArray[np.float32]
    """(K,): the sampler's scores from the images alone."""
    digest: str
    """Of the model that encoded it; the engine refuses a study of another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer is decoded."""

    max_tokens: int
    temperature: float
    top_p: float
    """Share of the probability that is drawn from."""
    seed: int | None
    stop: tuple[str, ...]
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
class Piece:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of the answer."""

    reason: Literal["stop", "length"]
    num_tokens: int
    """Tokens that were decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The request cannot be served, as a value: it is the client's affair and no crash."""

    problem: Problem
    limit: float | None = None
    detail: str = ""
    """What goes into the problem's text, where it has a place for it."""


Event = Started | Piece | Finished | Failed
"""An answer is one `Started`, any number of `Piece`, one `Finished`; `Failed` ends it early."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassShares:
    """What the language side says of the classes that it was asked about."""

    shares: tuple[float, ...]
    """(C,), sum 1, in the order of the classes."""
    digest: str
    """Of the model that answers."""


class VisionPort(Protocol):
    """The vision side as the ingress calls it: the class itself, or its deployment."""

    async def encode(self, images: Sequence[Pixels]) -> EncodedStudy | Failed:
        """Encode one study: K images, uint8 (H, W) or (H, W, 3)."""


class EnginePort(Protocol):
    """The language side as the ingress calls it.

    This is the seam for other engines: what batches, caches and schedules lies behind `generate`,
    and nothing in front of it knows of it.
    """

    def generate(
        self, study: EncodedStudy, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages` about the study; closing the iterator cancels."""


class RecognizePort(Protocol):
    """The language side as recognition calls it."""

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes."""
