"""A worker's share of a step in parts: by number of studies, or by what the decoder reads.

A part holds whole studies, so that all questions of a study share their reading. By tokens, a part
is filled up to the budget in the order of the studies; a study that is longer than the budget is a
part of its own. What a study's questions will share is known only when the sampler has picked:
where it may pick differently for each, the budget takes it that they share nothing.

Axes: B studies, N text rows, P tokens of an image.
"""

import math
from dataclasses import dataclass

from llava_ultra.batch import Batch
from llava_ultra.config import AdaptiveSampling, ModelConfig, images_kept


@dataclass(frozen=True, kw_only=True, slots=True)
class PartLimits:
    """How large a part may be; 0 sets no limit."""

    studies: int = 0
    tokens: int = 0
    """Tokens that the decoder reads at once."""


def split_share(batch: Batch, config: ModelConfig, limits: PartLimits) -> list[list[int]]:
    """Studies of each part, in order; all in one where there is no limit.

    Studies without a question give the decoder nothing to do, and go with their neighbours.
    """
    tokens = study_tokens(batch, config) if limits.tokens else [0] * len(batch.visual.image_mask)
    parts: list[list[int]] = []
    used = 0
    for study, size in enumerate(tokens):
        full = limits.studies and parts and len(parts[-1]) >= limits.studies
        over = limits.tokens and parts and used + size > limits.tokens
        if not parts or full or over:
            parts.append([])
            used = 0
        parts[-1].append(study)
        used += size
    asked = set(batch.text.study_index.tolist())
    return _merge_silent(parts, asked)


def study_tokens(batch: Batch, config: ModelConfig) -> list[int]:
    """Most tokens that the decoder reads of each study (B)."""
    at = batch.text.images_at
    lengths: list[list[int]] = [[] for _ in batch.visual.image_mask]
    for study, length in zip(
        batch.text.study_index.tolist(), batch.text.mask.sum(dim=1).tolist(), strict=True
    ):
        lengths[study].append(length - at)
    counts = batch.visual.image_mask.sum(dim=1).tolist()
    return [
        _readings(config, images, len(own)) * (at + _kept(config, images) * config.num_tokens)
        + sum(own)
        for images, own in zip(counts, lengths, strict=True)
    ]


def _kept(config: ModelConfig, images: int) -> int:
    return images_kept(config.sampling, images)


def _readings(config: ModelConfig, images: int, questions: int) -> int:
    """Most readings of a study of so many images and questions."""
    sampling = config.sampling
    if not isinstance(sampling, AdaptiveSampling) and sampling.type != "random":
        return min(1, questions)
    if isinstance(sampling, AdaptiveSampling) and sampling.training_rule == "weighted":
        return questions
    return min(questions, math.perm(images, _kept(config, images)))


def _merge_silent(parts: list[list[int]], asked: set[int]) -> list[list[int]]:
    """Join parts without a question to the part before, or behind at the beginning."""
    joined: list[list[int]] = []
    waiting: list[int] = []
    for part in parts:
        waiting += part
        if asked & set(part):
            joined.append(waiting)
            waiting = []
    if joined:
        joined[-1] += waiting
        return joined
    return [waiting]
