"""Text rows and the studies that they belong to: one's values for the other.

A study has several rows (one question each), in any order. What a study has once is repeated for
its rows here, and the words of its rows are put side by side, so that its images are met once.

Axes: B studies, N rows, L tokens of a row, T real tokens of all rows.
"""

import torch
from torch import Tensor


def gather_studies(values: Tensor, study_index: Tensor) -> Tensor:
    """Repeat per-study values (B, ...) for each text row: (N, ...)."""
    return values.index_select(0, study_index.to(values.device))


def places_within(study_index: Tensor, text_mask: Tensor) -> tuple[Tensor, int]:
    """Where each real word stands among those of its study, and the most words of a study.

    Args:
        study_index: (N,) int64.
        text_mask: (N, L) bool.

    Returns:
        (T,) int64, in the order of `text_mask.nonzero()`.
    """
    lengths = text_mask.sum(dim=1).tolist()
    taken: dict[int, int] = {}
    starts = []
    for study, length in zip(study_index.tolist(), lengths, strict=True):
        starts.append(taken.get(study, 0))
        taken[study] = starts[-1] + length
    places = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)])
    return places, max(taken.values())
