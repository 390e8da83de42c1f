"""Rows of all ranks, with their gradients: a loss over a whole step does not depend on workers.

Each rank holds some rows of a step. Where a loss compares rows with each other, every rank needs
all of them, and its gradient belongs to the rank that made a row. `gather_rows` does both, for rows
of any number on each rank, none included. In a process alone it returns what it is given.

Every rank then computes the same loss of all rows. Backward adds the gradients of all ranks' copies
and hands each rank those of its own rows, so that the ranks' weighted shares of a step add up to
the loss once (see `Objective.loss`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (R, ...) of this rank to those of all ranks in order (R0 + R1 + ..., ...); collective.

    Args:
        rows: float, on every rank of the same shape but for the first axis.
    """
    if not _is_spread():
        return rows
    gathered: Tensor = _GatherRows.apply(rows, gather_counts(len(rows)))
    return gathered


def gather_counts(count: int) -> list[int]:
    """A number of each rank, in order; collective."""
    if not _is_spread():
        return [count]
    world = torch.distributed.get_world_size()
    counts = torch.zeros(world, dtype=torch.int64, device=_device())
    counts[torch.distributed.get_rank()] = count
    torch.distributed.all_reduce(counts)
    numbers: list[int] = counts.tolist()
    return numbers


def num_ranks() -> int:
    """Processes that share a step."""
    return torch.distributed.get_world_size() if _is_spread() else 1


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Sum each value over all ranks; collective."""
    if not _is_spread():
        return [float(value) for value in values]
    total = torch.tensor(values, dtype=torch.float64, device=_device())
    torch.distributed.all_reduce(total)
    sums: list[float] = total.tolist()
    return sums


def sum_rows(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks, without gradients; collective."""
    if not _is_spread():
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def _is_spread() -> bool:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def _device() -> torch.device:
    """Where the process group's backend takes tensors."""
    cuda = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


class _GatherRows(torch.autograd.Function):
    """Both ways are one sum over ranks, in which each rank's rows have a place of their own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:  # noqa: ANN401 - torch's
        start = sum(counts[: torch.distributed.get_rank()])
        ctx.place = slice(start, start + len(rows))
        gathered = rows.new_zeros(sum(counts), *rows.shape[1:])
        gathered[ctx.place] = rows
        torch.distributed.all_reduce(gathered)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total[ctx.place], None
