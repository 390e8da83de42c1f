"""What one forward pass hands to the objectives.

Axes: B studies, K images, P tokens, N text rows, L text tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from llava_ultra.connector.pick import Sampler, Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Everything a loss may look at beside the batch itself."""

    tokens: "Tensor"
    """(B, K, P, D): the fused tokens of all images."""
    row_mask: "Tensor"
    """(N, K) bool: the real images of each row's study."""
    selection: "Selection"
    """What was picked, by which scores."""
    sampler: "Sampler"
    embed: "Callable[[Tensor], Tensor]"
    """Token ids (N, L) to vectors (N, L, D)."""
    answer_log_probs: "Tensor | None"
    """(N, L - 1): of each answer token, 0 elsewhere; None where no objective needs `answers`."""
