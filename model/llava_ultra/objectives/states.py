"""What one forward pass hands to the objectives, and what an objective of a whole step gets of it.

Axes: B studies, K images, P tokens, N text rows, L text tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llava_ultra.connector.pick import Sampler, Selection
    from llava_ultra.recognition.head import RecognitionHead
    from llava_ultra.recognition.losses import Side
    from llava_ultra.recognition.names import AnchorKind
    from llava_ultra.recognition.pairs import TextTokens


class Recogniser(Protocol):
    """The model, for objectives that read more with its decoder than questions and answers."""

    recognition: "RecognitionHead | None"
    language_model: "nn.Module"
    embedding_scale: "Tensor"
    """(): what image tokens are multiplied with in front of the decoder."""
    heads: "nn.ModuleDict"
    """By objective: what it learns beside the model."""

    def read_images(
        self, tokens: "Tensor", image_mask: "Tensor", prompt: "Sequence[int]", images_at: int
    ) -> "Side":
        """Vectors of B studies."""

    def read_texts(self, texts: "TextTokens") -> "Side":
        """Vectors of R texts."""

    def class_vectors(self, texts: "TextTokens", anchors: "AnchorKind") -> "Tensor":
        """Vectors (R, D) of class descriptions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    """What is known before the decoder is asked."""

    tokens: "Tensor"
    """(B, K, P, D): the fused tokens of all images."""
    sampler: "Sampler"
    embed: "Callable[[Tensor], Tensor]"
    """Token ids (N, L) to vectors (N, L, D)."""
    recogniser: "Recogniser | None" = None
    """The model; None where it is not at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class States(Fused):
    """Everything a loss may look at beside the batch itself."""

    row_mask: "Tensor"
    """(N, K) bool: the real images of each row's study."""
    selection: "Selection"
    """What was picked, by which scores."""
    answer_log_probs: "Tensor | None"
    """(N, L - 1): of each answer token, 0 elsewhere; None where no objective needs `answers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPart:
    """What a part of a step brings to a comparison of the whole step; parts join along axis 0."""

    vectors: "tuple[Tensor, ...]"
    """What has gradients, each (any number, ...)."""
    counts: "tuple[Tensor, ...]"
    """int64, each (any number,): how the vectors belong together; beside the masks."""

    def as_leaves(self) -> "StepPart":
        """The same without its past, so that gradients end at the vectors."""
        vectors = tuple(vector.detach().requires_grad_() for vector in self.vectors)
        return StepPart(vectors=vectors, counts=self.counts)
