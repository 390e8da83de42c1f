"""The interface of a training objective: a name, a weight, what it needs, and a loss.

An objective is its own configuration: a frozen pydantic part of the model's, told apart by `type`,
with a method that computes the loss of a batch. The model's forward pass computes what the listed
objectives need and nothing else, asks each for its loss and adds them in the order of the list; the
training loop, its report and the cost trace take losses by name. None of them knows a single one.

The module of an objective imports torch inside its functions: the command line reads it with the
configuration.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.towers.tower_config import ModelPart

if TYPE_CHECKING:
    from torch import Tensor

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.states import States

Need = Literal["answers", "scores"]
"""What not every forward pass computes: `answers`, the decoder's log-probabilities, the larger part
of a step's work; `scores`, those of a sampler that learns which images to pick."""


class Objective(ModelPart):
    """A named loss; what derives from it adds its settings and `loss`."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """A sampler without scores leaves the objectives out that need them."""

    type: str
    """Its name, under which its loss is logged as `<type>_loss`."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of its loss in what is minimised; at 0 it is not computed."""

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """The loss () of one worker's share of a step, before its weight.

        The worker weighs its share by its number of text rows and the shares are added up: a mean
        over rows is then the mean over the whole step. What compares rows with each other gathers
        them first (`llava_ultra.objectives.ranks`) and returns the same loss on every worker.
        """
        raise NotImplementedError
