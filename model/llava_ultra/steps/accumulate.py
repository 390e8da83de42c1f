"""The loss of a worker's share of a step, computed part by part.

Parts go forward and backward one after the other, so that one part's activations are alive at a
time. Their gradients are summed here, and the last part's loss carries them (`_Sums.owed`): one
backward pass of DeepSpeed's engine then finds the gradient of the whole share. The engine knows
nothing of parts, so none of its steps is ever partial, workers may have different numbers of parts,
and a parameter that some worker did not use gets a gradient of zero there.

A mean over rows adds up from parts, each weighted by its rows. A loss that compares all studies of
a step (`StepObjective`) does not: first every part says what it brings to the comparison, without
gradient; the loss of all of it, on all workers, says what it would like to be changed (gradient
cache, arXiv 2101.06983); and each part's pass hears that as a product, whose gradient is the same.

Where the sampler draws at random, and with LoRA dropout, parts have other draws than the whole.

Parameters are whole on every worker: ZeRO up to stage 2. At stage 3 a worker has a shard of each,
and parts are refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """A worker's share of a step, gone forward and, but for its last part, backward."""

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
        run: runs the part whose loss goes backward at the end: DeepSpeed's engine; by default the
            module itself, as for all other parts.
        device: of the module.

    Raises:
        ValueError: the share has parts, and parameters are spread over workers.
    """
    parts = [batch.of_studies(studies) for studies in split_share(batch, module.config, limits)]
    if len(parts) > 1:
        _check_whole(module)
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
        if not is_last:
            sums.add(owed)
    if len(parts) > 1:
        owed = owed + sums.owed()
    losses |= of_step
    weights = {f"{each.type}_loss": each.weight for each in module.config.active_objectives}
    losses["loss"] = sum(weight * losses[name] for name, weight in weights.items())
    return ShareLoss(owed=owed, losses=losses, num_answers=num_answers)


def _check_whole(module: nn.Module) -> None:
    """Refuse parameters of which each worker has a shard, as DeepSpeed marks them at stage 3."""
    for name, parameter in trainable_parameters(module).items():
        if hasattr(parameter, "ds_id"):
            raise ValueError(
                f"a step in parts cannot add up gradients of {name}, which ZeRO-3 spreads over "
                "workers; set train.micro_studies and train.micro_tokens to 0, or lower "
                "train.zero_stage to 2"
            )


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
        """A loss () whose gradient is the sums; of a parameter without any it is zero."""
        owed = [
            (parameter * (0.0 if total is None else total)).sum()
            for parameter, total in zip(self._parameters, self._sums, strict=True)
        ]
        return torch.stack(owed).sum()
