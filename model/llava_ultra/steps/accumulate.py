"""The loss of a worker's share of a step, computed part by part.

Parts go forward and backward one after the other, so that one part's activations are alive at a
time. Their gradients are summed here and handed to DeepSpeed's engine by a loss that has them all
(`_Sums.owed`), whose backward pass is one node. The engine knows nothing of parts, so none of its
steps is ever partial. It sees no graph either: ZeRO-1 and 2 put gradients into buckets in the order
in which they come, and add up buckets of all workers, which is silently wrong where the order
differs. A worker whose questions share readings goes backward in another order than one whose
questions do not. Here the order is that of the parameters on all workers, and one that some worker
did not use gets a gradient of zero there.

A mean over rows adds up from parts, each weighted by its rows. A loss that compares all studies of
a step (`StepObjective`) does not: first every part says what it brings to the comparison, without
gradient; the loss of all of it, on all workers, says what it would like to be changed (gradient
cache, arXiv 2101.06983); and each part's pass hears that as a product, whose gradient is the same.

Where the sampler draws at random, and with LoRA dropout, parts have other draws than the whole.

Parameters are whole on every worker: ZeRO up to stage 2. At stage 3 a worker has a shard of each,
and parts are refused; the engine then goes backward through the model, in which all texts are read
as rows, so that the order is the same (`LlavaUltra.reads_rows`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava_ultra.batch import Batch
from llava_ultra.model import LlavaUltra, TrainOutput, trainable_parameters
from llava_ultra.objectives.ranks import num_ranks, sum_over_ranks
from llava_ultra.recognition.pairs import Pairs
from llava_ultra.steps.micro_batches import PartLimits, split_share

Pull = dict[str, tuple[Tensor, ...]]
"""By an objective of the whole step: its gradient for each vector that a part brought."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareLoss:
    """A worker's share of a step, gone forward and, where parameters are whole, backward."""

    owed: Tensor
    """(): its gradient, averaged over workers, is that of the whole step's loss."""
    losses: dict[str, float]
    """The mean over the share of `loss` and of each objective's own."""
    num_answers: int
    """Of the share."""


def forward_share(
    module: LlavaUltra,
    batch: Batch,
    limits: PartLimits,
    *,
    run: Callable[..., TrainOutput] | None = None,
    device: torch.device | str = "cpu",
) -> ShareLoss:
    """Compute the loss of a worker's share; collective where several workers learn.

    Args:
        module: in training mode.
        batch: the share, on the CPU.
        limits: how large a part may be.
        run: runs the last part: DeepSpeed's engine, which wants to be called once a step; by
            default the module itself, as for all other parts.
        device: of the module.

    Raises:
        ValueError: the share has parts, and parameters are spread over workers.
    """
    parts = [batch.of_studies(studies) for studies in split_share(batch, module.config, limits)]
    spread = _spread_parameter(module)
    if spread and len(parts) > 1:
        raise ValueError(
            f"a step in parts cannot add up gradients of {spread}, which ZeRO-3 spreads over "
            "workers; set train.micro_studies and train.micro_tokens to 0, or lower "
            "train.zero_stage to 2"
        )
    num_answers = len(batch.text.ids)
    step_answers, in_parts = sum_over_ranks([num_answers, len(parts) > 1])
    pulls: Sequence[Pull | None] = [None]
    of_step: dict[str, float] = {}
    if in_parts:  # on any worker: then all of them compare what their parts bring
        pulls, of_step = _pulls(module, parts, device)
    sums = _Sums(module)
    ranks, owed = num_ranks(), torch.zeros(())
    losses: dict[str, float] = {}
    for number, (part, pull) in enumerate(zip(parts, pulls, strict=True)):
        is_last = number == len(parts) - 1
        output = (run or module if is_last else module)(
            part.visual.to(device), part.text.to(device), pull, _pairs(part, device)
        )
        rows = len(part.text.ids)
        # gradients are averaged over workers; each part counts by its rows among the step's
        owed = output.loss * (rows * ranks / step_answers) + output.pulled * ranks
        for name, value in output.losses.items():
            losses[name] = losses.get(name, 0.0) + float(value) * rows / num_answers
        if not spread:
            sums.add(owed)
    if not spread:
        owed = sums.owed()
    losses |= of_step
    weights = {f"{each.type}_loss": each.weight for each in module.config.active_objectives}
    losses["loss"] = sum(
        weight * losses[name] for name, weight in weights.items() if name in losses
    )
    return ShareLoss(owed=owed, losses=losses, num_answers=num_answers)


def _spread_parameter(module: nn.Module) -> str | None:
    """A parameter of which each worker has a shard, as DeepSpeed marks them at stage 3."""
    learned = trainable_parameters(module)
    return next((name for name, each in learned.items() if hasattr(each, "ds_id")), None)


def _pulls(
    module: LlavaUltra, parts: Sequence[Batch], device: torch.device | str
) -> tuple[list[Pull], dict[str, float]]:
    """What the losses of the whole step ask of each part, and those losses; collective."""
    brought = [
        module.step_parts(part.visual.to(device), part.text.to(device), _pairs(part, device))
        for part in parts
    ]
    pulls: list[Pull] = [{} for _ in parts]
    losses = {}
    for objective in module.config.step_objectives:
        loss, gradients = objective.pull([part[objective.type] for part in brought])
        losses[f"{objective.type}_loss"] = float(loss)
        for pull, gradient in zip(pulls, gradients, strict=True):
            pull[objective.type] = gradient
    return pulls, losses


def _pairs(part: Batch, device: torch.device | str) -> Pairs | None:
    return None if part.pairs is None else part.pairs.to(device)


class _Sums:
    """Gradients of the parts that went backward, of every parameter that learns."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(trainable_parameters(module).values())
        self._sums: list[Tensor | None] = [None] * len(self._parameters)

    def add(self, loss: Tensor) -> None:
        """Go backward through a part."""
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                so_far = self._sums[place]
                self._sums[place] = gradient if so_far is None else so_far.add_(gradient)

    def owed(self) -> Tensor:
        """A loss () whose gradient is the sums, to be asked once; of a parameter without any, 0."""
        sums = [
            torch.zeros_like(parameter) if total is None else total
            for parameter, total in zip(self._parameters, self._sums, strict=True)
        ]
        self._sums = []
        owed: Tensor = _Owed.apply(sums, *self._parameters)
        return owed


class _Owed(torch.autograd.Function):
    """Nothing of some parameters; backward, the gradients that are given for them."""

    @staticmethod
    def forward(ctx: Any, sums: list[Tensor], *parameters: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.sums = sums
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        return None, *(total.mul_(gradient) for total in ctx.sums)
