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

Axes: V vocabulary.
"""

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

    def __call__(self, logits: Tensor, chosen: Sequence[int]) -> Tensor:
        """Logits (4, V) of the whole, the two halves and the uninformed guess, to scores (V,).

        Args:
            logits: float32, in the order F, I, C, D of the module's docstring.
            chosen: the answer's tokens so far, which say which half is at work.
        """
        scores = logits.log_softmax(dim=-1)
        whole, identify, classify, uninformed = scores
        own, other = (classify, identify) if self.classifies(chosen) else (identify, classify)
        near, far = 1.0, 1.0
        if self.settings.adaptive:
            near, far = 1 - divergence(own, whole), divergence(other, whole)
        contrast = whole + near * own - far * other - uninformed
        mixed: Tensor = whole + self.settings.strength * contrast
        kept = torch.tensor([self.mark, self.separator, self.end], device=logits.device)
        mixed[kept] = whole[kept]
        return mixed.masked_fill(~self._plausible(scores), -torch.inf)

    def classifies(self, chosen: Sequence[int]) -> bool:
        """Whether the next token is part of a field's name and not of a value."""
        for token in reversed(chosen):
            if token in (self.mark, self.separator):
                return token == self.mark
        return False

    def _plausible(self, scores: Tensor) -> Tensor:
        """Which tokens may be chosen: (V,) bool; the whole's likeliest one always may."""
        heard = scores[:3] if self.settings.plausible_to == "every" else scores[:1]
        least = heard.amax(dim=-1, keepdim=True) + torch.tensor(self.settings.plausibility).log()
        allowed = (heard >= least).all(dim=0)
        allowed[scores[0].argmax()] = True
        return allowed


def divergence(one: Tensor, other: Tensor) -> float:
    """Jensen-Shannon divergence of two distributions, log-probabilities (V,), in nats."""
    middle = torch.logaddexp(one, other) - torch.tensor(2.0).log()
    shares = torch.stack([one, other]).exp()
    apart = (shares * (torch.stack([one, other]) - middle)).sum() / 2
    return float(apart.clamp(0, 1))
