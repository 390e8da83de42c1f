"""The parts of MLIP's loss; the equations stand in `llava_ultra.objectives.pretraining.mlip`.

Axes: B images and captions, V views, P patches, E width, T terms, R class texts, C classes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.recognition.losses import ClassTexts, dkam_loss, info_nce


class DivergenceEncoder(nn.Module):
    """Views of a vector: (B, E) to (B, V, E), of length 1."""

    def __init__(self, views: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(views, width, width))
        for matrix in self.weight:
            nn.init.orthogonal_(matrix)

    def forward(self, texts: Tensor) -> Tensor:
        """Look at vectors from every view."""
        return F.normalize(torch.einsum("vij,bj->bvi", self.weight, texts), dim=-1)


def global_loss(images: Tensor, views: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE () of images (B, E) and the views (B, V, E) of captions, and how alike views are ().

    Args:
        images: of length 1.
        views: of length 1.
        temperature: tau.
    """
    count = views.shape[1]
    each = torch.einsum("ie,jve->ijv", images, views) / temperature
    matched = info_nce(each.logsumexp(dim=-1) - math.log(count))
    if count == 1:
        return matched, matched.new_zeros(())
    cosines = views @ views.transpose(1, 2)
    others = ~torch.eye(count, dtype=torch.bool, device=views.device)
    return matched, cosines[:, others].pow(2).mean()


def local_loss(
    patches: Tensor, terms: Tensor, marks: Tensor, shares: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy () of each affirmed term against those that its caption does not affirm.

    Args:
        patches: (B, P, E), of length 1.
        terms: (T, E), of length 1.
        marks: (B, T) bool.
        shares: (T,) share of all captions that affirm each term; it weighs `-log share`.
        temperature: tau.

    Returns:
        The weighted mean over affirmed terms; 0 where there is none.
    """
    each = torch.einsum("bpe,te->btp", patches, terms) / temperature
    found = each.logsumexp(dim=-1) - math.log(patches.shape[1])  # (B, T)
    others = found.masked_fill(marks, -torch.inf).logsumexp(dim=1, keepdim=True)
    missed = torch.logaddexp(found, others) - found
    weights = marks * -shares.clamp(min=1e-6).log()
    return (weights * missed).sum() / weights.sum().clamp(min=1e-6)


def category_loss(
    sides: Sequence[Tensor],
    texts: Tensor,
    class_of: Tensor,
    labels: Tensor,
    temperature: float,
) -> Tensor:
    """Cross-entropy () against the mean vector of each class's texts, the mean over sides.

    Args:
        sides: vectors (B, E) of images, and of captions.
        texts: (R, E), of length 1.
        class_of: (R,).
        labels: (B, C); rows without any 1 take no part.
        temperature: tau.
    """
    anchors = ClassTexts(vectors=texts, class_of=class_of)
    divisor = texts.new_tensor(temperature)
    losses = [
        dkam_loss(side, anchors, labels, temperature=divisor, pooling="mean") for side in sides
    ]
    return torch.stack(losses).mean()
