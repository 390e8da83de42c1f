"""The interface of an objective of CLIP's pretraining: as those of the model, over other states.

Axes: B images with a caption each, P patches, E width of the joint space, N examples, T terms,
R class texts, C classes, L text tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llava_ultra.objectives.objective import NamedLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

TowerNeed = Literal["patches", "terms", "classes"]
"""What not every pretraining has: features of patches, the vocabulary's terms, a bank's classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """What is known of N examples beside image and caption."""

    term_ids: "Tensor | None" = None
    """(T, L) int64: tokens of the vocabulary's terms."""
    term_marks: "Tensor | None" = None
    """(N, T) bool: which of them each caption affirms."""
    class_ids: "Tensor | None" = None
    """(R, L) int64: tokens of the texts that describe classes."""
    class_of: "Tensor | None" = None
    """(R,) int64: each text's class."""
    labels: "Tensor | None" = None
    """(N, C) int64: 1 where an example is of a class; rows without any are not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerBatch:
    """One step's examples."""

    index: "Tensor"
    """(B,) int64: their places among the N examples."""
    knowledge: Knowledge


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerStates:
    """What the tower made of them."""

    images: "Tensor"
    """(B, E), of length 1."""
    texts: "Tensor"
    """(B, E), of length 1."""
    scale: "Tensor"
    """(): what similarities are multiplied with."""
    patches: "Tensor | None"
    """(B, P, E) of length 1; None where no objective needs them."""
    encode: "Callable[[Tensor], Tensor]"
    """Text tokens (R, L) to vectors (R, E) of length 1."""
    heads: "nn.ModuleDict"
    """By objective: what it learns beside the tower."""


class TowerObjective(NamedLoss):
    """A named loss of the pretraining; what derives from it adds its settings and `loss`."""

    @property
    def needs(self) -> "frozenset[TowerNeed]":
        """What its loss looks at beside whole images and captions."""
        return frozenset()

    def build_head(self, width: int) -> "nn.Module | None":
        """What it learns beside the tower, thrown away afterwards; None where it needs nothing."""
        return None

    def loss(self, batch: TowerBatch, states: TowerStates) -> "Tensor":
        """The loss () of a step, before its weight."""
        raise NotImplementedError
