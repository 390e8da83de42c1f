"""Alternate contrastive decoding: the whole task, its two halves and an uninformed guess vote.

ALCD (arXiv 2410.15702) extracts fields as pairs of what is named and which field it is. An answer
is `value = field ; value = field ; ...`, so that while it is written one half of the task is at
work: identifying a value up to `=`, classifying it up to `;`. Four readings say what comes next: F
of the adapter of the whole task, I and C of the adapters of its halves, and D of the first without
the report, which knows what is usual alone. With S the half at work and O the other one

    z = F + a (F + (1 - JS(S)) S - JS(O) O - D)

where JS is the Jensen-Shannon divergence from F, in nats and at most 1. Without `adaptive` both
weights are 1. What is not plausible is never chosen, and `=`, `;` and the end keep the score of F.

Ours: F, I, C and D are log-probabilities, so that a shift of a reading's logits changes nothing; a
token is plausible by its probability, where the authors compare logits; one beam in place of eight.

Axes: N answers, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_ultra.decoding.contrast_config import ContrastConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AlternateContrast:
    """The rule, for the tokens of one tokenizer."""

    settings: ContrastConfig
    mark: int
    """Id of what stands between a value and its field."""
    separator: int
    """Id of what ends a field."""
    end: int
    """Id of what ends an answer."""

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]]) -> Tensor:
        """Logits (N, 4, V) of the whole, the two halves and the uninformed guess, to (N, V).

        Args:
            logits: float32, in the order F, I, C, D of the module's docstring.
            chosen: each answer's tokens so far, which say which half is at work.
        """
        scores = logits.log_softmax(dim=-1)
        whole, identify, classify, uninformed = scores.unbind(dim=1)
        at_work = torch.tensor([self.classifies(ids) for ids in chosen], device=logits.device)
        own = torch.where(at_work[:, None], classify, identify)
        other = torch.where(at_work[:, None], identify, classify)
        contrast = whole - uninformed
        if self.settings.adaptive:
            contrast = contrast + (1 - divergence(own, whole)) * own
            contrast = contrast - divergence(other, whole) * other
        else:
            contrast = contrast + own - other
        mixed: Tensor = whole + self.settings.strength * contrast
        kept = [self.mark, self.separator, self.end]
        mixed[:, kept] = whole[:, kept]
        return mixed.masked_fill(~self._plausible(scores), -torch.inf)

    def classifies(self, chosen: Sequence[int]) -> bool:
        """Whether the next token is part of a field's name and not of a value."""
        for token in reversed(chosen):
            if token in (self.mark, self.separator):
                return token == self.mark
        return False

    def _plausible(self, scores: Tensor) -> Tensor:
        """Which tokens may be chosen: (N, V) bool; the whole's likeliest one always may."""
        heard = scores[:, :3] if self.settings.plausible_to == "every" else scores[:, :1]
        share = self.settings.plausibility
        least = heard.amax(dim=-1, keepdim=True) + (math.log(share) if share else -math.inf)
        allowed = (heard >= least).all(dim=1)
        return allowed.scatter(1, scores[:, 0].argmax(dim=-1, keepdim=True), True)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions, log-probabilities (N, V), in nats: (N, 1)."""
    middle = torch.logaddexp(one, other) - math.log(2)
    apart = one.exp() * (one - middle) + other.exp() * (other - middle)
    return (apart.sum(dim=-1, keepdim=True) / 2).clamp(0, 1)
