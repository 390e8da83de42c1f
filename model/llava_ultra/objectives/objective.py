"""The interface of a training objective: a name, a weight, what it needs, and a loss.

Most losses are means over text rows, and add up from parts of a step. One that compares all rows of
a step with each other is a `StepObjective`: it says what a part brings to the comparison, and what
the comparison of all of it costs, so that a step may be computed in parts (`llava_ultra.steps`).

An objective is its own configuration: a frozen pydantic part of the model's, told apart by `type`,
with a method that computes the loss of a batch. The model's forward pass computes what the listed
objectives need and nothing else, asks each for its loss and adds them in the order of the list; the
training loop, its report and the cost trace take losses by name. None of them knows a single one.

The module of an objective imports torch inside its functions: the command line reads it with the
configuration.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from llava_ultra.towers.tower_config import ModelPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.states import Fused, States, StepPart

Need = Literal["answers", "scores", "adapters"]
"""What not every forward pass has: `answers`, the decoder's log-probabilities, the larger part of a
step's work; `scores`, those of a sampler that learns which images to pick; `adapters` that learn,
which they do in the stages that say so."""


class ObjectiveHead(Protocol):
    """What an objective learns beside the model: a module that no answer needs and no export holds.

    Its parameters learn in all stages; its buffers are saved with them.
    """

    def after_step(self, language_model: "nn.Module") -> None:
        """Called on every worker after each optimiser step, with the decoder and its adapters."""


class NamedLoss(ModelPart):
    """What all objectives have: those of the model, and those of CLIP's pretraining."""

    type: str
    """Its name, under which its loss is logged as `<type>_loss`."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of its loss in what is minimised; at 0 it is not computed."""


class Objective(NamedLoss):
    """A loss of the model; what derives from it adds its settings and `loss`."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """A sampler without scores leaves the objectives out that need them."""
    needs_whole_weights: ClassVar[bool] = False
    """Whether it calls parts of the decoder in ways of its own, which no worker can follow that has
    a share of each weight (ZeRO-3)."""

    def build_head(
        self,
        language_model: "nn.Module",
        width: int,
        scale: "Tensor",
    ) -> "nn.Module | None":
        """What it learns beside the model, also an `ObjectiveHead`; None where it needs nothing.

        `width` is that of the decoder (D), `scale` () the root mean square of its embeddings.
        """
        return None

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """The loss () of one worker's share of a step, or of a part of it, before its weight.

        The worker weighs it by its number of text rows and adds up: a mean over rows is then the
        mean over the whole step. A `StepObjective` returns the same loss on every worker.
        """
        raise NotImplementedError


class StepObjective(Objective):
    """A loss that compares all rows of a step, on all workers, with each other."""

    def part(self, batch: "Batch", fused: "Fused") -> "StepPart":
        """What a part of a step brings to the comparison."""
        raise NotImplementedError

    def compare(self, parts: "Sequence[StepPart]") -> "Tensor":
        """The loss () of these parts of this worker and all parts of the others.

        Collective, and the same on every worker: what is compared is gathered with its gradients
        (`llava_ultra.objectives.ranks`).
        """
        raise NotImplementedError

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """The loss () of a worker's share that is computed at once."""
        return self.compare([self.part(batch, states)])

    def pull(self, parts: "Sequence[StepPart]") -> "tuple[Tensor, list[tuple[Tensor, ...]]]":
        """The loss () of the step, and its gradient for the vectors of each part; collective."""
        import torch

        from llava_ultra.objectives.ranks import num_ranks

        with torch.enable_grad():
            leaves = [part.as_leaves() for part in parts]
            loss = self.compare(leaves)
            vectors = [vector for part in leaves for vector in part.vectors]
            # every worker computes the loss, and gathering adds up what all of them ask
            gradients = iter(torch.autograd.grad(loss / num_ranks(), vectors))
        return loss.detach(), [tuple(next(gradients) for _ in part.vectors) for part in parts]


def build_heads(
    objectives: "Sequence[Objective]", language_model: "nn.Module", width: int, scale: "Tensor"
) -> "nn.ModuleDict":
    """The heads of those that have one, by name; drawn so that all else begins as without them."""
    import torch
    from torch import nn

    heads = nn.ModuleDict()
    for objective in objectives:
        with torch.random.fork_rng(devices=()):
            head = objective.build_head(language_model, width, scale)
        if head is not None:
            heads[objective.type] = head
    return heads
