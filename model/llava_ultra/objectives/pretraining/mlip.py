"""The MLIP objective: an image against views of its text, terms against patches, and classes.

MLIP (arXiv 2402.02045) names three parts; how they work inside is in no copy that could be read.
What stands here is ours, and docs/methods.md says so. Of B images with a caption each, P patches, T
terms and C classes:

- global: a *divergence encoder* makes V views of a caption's vector, `t_v = norm(W_v t)`. An image
  and a caption are as alike as their best view, `S_ij = tau log mean_v exp(i_i . t_jv / tau)`, and
  each must find the other. The divergence term, the mean of `(t_v . t_w)^2` over pairs of views,
  keeps them from saying the same;
- local: a term's vector is what the text side makes of it; an image shows a term as much as its
  best patch, `s_it = tau log mean_p exp(k_t . p_ip / tau)`. A term that the caption affirms must be
  found among all that it does not. A term counts by its information, `-log share`;
- category: images and captions against the descriptions of a bank's classes, as DKAM has it.

`L = global + divergence D + local + category`, each with its weight.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.objectives.pretraining.tower_objective import (
    TowerBatch,
    TowerNeed,
    TowerObjective,
    TowerStates,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class MlipObjective(TowerObjective):
    """Global, local and category-level alignment."""

    type: Literal["mlip"] = "mlip"
    views: int = Field(default=3, ge=1)
    """Views of each caption (V)."""
    divergence: float = Field(default=0.1, ge=0)
    """Weight of the term that keeps the views apart."""
    local: float = Field(default=0.5, ge=0)
    """Weight of terms against patches; 0 leaves them out."""
    category: float = Field(default=0.5, ge=0)
    """Weight of classes where there is a bank."""
    bank: str = ""
    """Bank of classes, a packaged one by name or a file; empty leaves the category level out."""
    temperature: float = Field(default=0.07, gt=0)
    """Divides similarities (tau)."""

    @property
    def needs(self) -> frozenset[TowerNeed]:
        """Patches and terms for the local part, classes for the last one."""
        found: set[TowerNeed] = set()
        if self.local:
            found |= {"patches", "terms"}
        if self.category and self.bank:
            found.add("classes")
        return frozenset(found)

    def build_head(self, width: int) -> "nn.Module":
        """The divergence encoder: V matrices (V, E, E)."""
        from llava_ultra.objectives.pretraining.mlip_losses import DivergenceEncoder

        return DivergenceEncoder(self.views, width)

    def loss(self, batch: TowerBatch, states: TowerStates) -> "Tensor":
        """The weighted sum () of the parts."""
        from llava_ultra.objectives.pretraining.mlip_losses import (
            category_loss,
            global_loss,
            local_loss,
        )

        views = states.heads[self.type](states.texts)
        matched, apart = global_loss(states.images, views, self.temperature)
        total = matched + self.divergence * apart
        known = batch.knowledge
        if "terms" in self.needs and known.term_ids is not None:
            assert states.patches is not None  # it is among the needs
            assert known.term_marks is not None
            total = total + self.local * local_loss(
                states.patches,
                states.encode(known.term_ids),
                known.term_marks[batch.index],
                known.term_marks.float().mean(dim=0),
                self.temperature,
            )
        if "classes" in self.needs and known.class_ids is not None:
            assert known.class_of is not None
            assert known.labels is not None
            total = total + self.category * category_loss(
                (states.images, states.texts),
                states.encode(known.class_ids),
                known.class_of,
                known.labels[batch.index],
                self.temperature,
            )
        return total
