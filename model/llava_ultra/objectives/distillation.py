"""The distillation objective: the feature score learns to pick what the attention score picks.

The attention score reads the answer in training, and there is none when it counts; the feature
score needs no text at all. So it learns from the other, and not the other from it. LLaVA-Ultra
(arXiv 2410.15074) names it; the equation is ours:
`KL(stopgrad softmax(a / T) || softmax(f / T))`.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.objectives.objective import Need, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.states import States


class DistillationObjective(Objective):
    """KL divergence of the feature scores from the attention scores, mean over text rows."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    type: Literal["distillation"] = "distillation"
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of both sides."""

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """KL divergence (), the mean over the N rows."""
        selection = states.selection
        assert selection.feature_scores is not None  # it is among the needs
        assert selection.attention_scores is not None
        return distillation_loss(
            selection.attention_scores,
            selection.feature_scores,
            states.row_mask,
            self.temperature,
        )


def distillation_loss(
    teacher: "Tensor", student: "Tensor", image_mask: "Tensor", temperature: float
) -> "Tensor":
    """`KL(stopgrad softmax(teacher / T) || softmax(student / T))`, mean over rows.

    Args:
        teacher: (N, K) scores that get no gradient.
        student: (N, K) scores that learn.
        image_mask: (N, K) bool; padding takes no part.
        temperature: T, softens both sides.
    """
    # padding is a large negative number, so that the products are finite
    target = (teacher.detach() / temperature).masked_fill(~image_mask, -1e9).log_softmax(dim=-1)
    learned = (student / temperature).masked_fill(~image_mask, -1e9).log_softmax(dim=-1)
    terms = (target.exp() * (target - learned)).masked_fill(~image_mask, 0.0)
    return terms.sum(dim=1).mean()
