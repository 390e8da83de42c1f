"""The answer objective: predict each answer, given its question and the picked images.

Every answer weighs the same, however long it is. A report has some forty tokens, of which most
repeat from study to study, and the answer to a closed question has two that depend on the image: a
mean over all tokens would drown them.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from llava_ultra.objectives.objective import Need, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.states import States


class AnswerObjective(Objective):
    """Mean over answers of the mean cross-entropy of their tokens."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answers"})

    type: Literal["answer"] = "answer"

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """Cross-entropy (), the mean over the N rows."""
        log_probs = states.answer_log_probs
        assert log_probs is not None  # it is among the needs
        num_tokens = batch.text.num_answer_tokens().clamp(min=1).to(log_probs.device)
        return -(log_probs.sum(dim=1) / num_tokens).mean()
