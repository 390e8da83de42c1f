"""The losses of LLaVA-RadZ over the rows of a whole step, and the scores that they train.

Axes: N studies, D width, R class texts, C classes.

- DFAT, cross: `1/2 [NCE(g_img, l_txt) + NCE(l_img, g_txt)]`, the global vector of one side against
  the local one of the other; plain: `a NCE(g_img, g_txt) + (1 - a) NCE(l_img, l_txt)`.
- DKAM: `1/2 [CE(g_txt, y) + CE(g_img, y)]` over the classes of a bank. A study of several classes
  wants all of them alike, which is the cross-entropy of one where it has one.

Studies with the same text or the same classes are no negatives of each other: telling them apart
would be learning noise. All vectors are of length 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_ultra.recognition.names import Pooling, Variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What was read of pictures, or of texts."""

    globals_: Tensor
    """(N, D): the mean over the modality tokens."""
    locals_: Tensor
    """(N, D): the mean over all other tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassTexts:
    """Vectors of the texts that describe classes."""

    vectors: Tensor
    """(R, D)."""
    class_of: Tensor
    """(R,) int64: each text's class, 0 to C - 1, each at least once."""
    weights: Tensor | None = None
    """(R,): logits of what a text counts in its class, of pooling `attention`."""

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_of.max()) + 1


def same_rows(text_keys: Tensor, labels: Tensor | None) -> Tensor:
    """Which studies are no negatives of each other: (N, N) bool, True on the diagonal.

    Args:
        text_keys: (N,) numbers, equal for equal texts.
        labels: (N, C) 1 where a study is of a class; rows without any 1 are not known.
    """
    same = text_keys[:, None] == text_keys[None]
    if labels is not None:
        equal = (labels[:, None] == labels[None]).all(dim=-1)
        same = same | (equal & (labels.sum(dim=1) > 0)[:, None])
    return same | torch.eye(len(text_keys), dtype=torch.bool, device=same.device)


def info_nce(similarity: Tensor) -> Tensor:
    """Symmetric cross-entropy () of similarities (B, B), whose diagonal holds the own pairs."""
    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def masked_nce(similarity: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE () of similarities (N, N), over temperature, without false negatives."""
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return info_nce(similarity.masked_fill(same.to(similarity.device) & ~own, -torch.inf))


def dfat_loss(
    images: Side,
    texts: Side,
    *,
    temperature: Tensor,
    same: Tensor,
    variant: Variant = "cross",
    global_share: float = 0.5,
) -> Tensor:
    """Alignment () of N pictures with their N texts; see the module's docstring.

    Args:
        images: of the studies.
        texts: of their reports.
        temperature: (), divides similarities.
        same: (N, N) bool, see `same_rows`.
        variant: which vectors meet.
        global_share: of the plain variant, a.
    """

    def nce(one: Tensor, other: Tensor) -> Tensor:
        return masked_nce(one @ other.T / temperature, same)

    if variant == "cross":
        return (nce(images.globals_, texts.locals_) + nce(images.locals_, texts.globals_)) / 2
    whole, part = nce(images.globals_, texts.globals_), nce(images.locals_, texts.locals_)
    return global_share * whole + (1 - global_share) * part


def class_similarities(rows: Tensor, texts: ClassTexts, pooling: Pooling) -> Tensor:
    """Similarity (N, C) of vectors (N, D) and classes of several texts.

    `mean` and `attention` compare with the mean vector of a class's texts, plain or weighted,
    `max` with the text that is nearest.
    """
    count = texts.num_classes
    if pooling == "max":
        each = rows @ texts.vectors.T
        best = each.new_full((len(rows), count), -torch.inf)
        index = texts.class_of.expand(len(rows), -1)
        return best.scatter_reduce(1, index, each, reduce="amax")
    weights = torch.zeros_like(texts.vectors[:, 0])
    if pooling == "attention":
        assert texts.weights is not None  # the head that has it gives it
        weights = texts.weights
    member = F.one_hot(texts.class_of, count).T.bool()  # (C, R)
    shares = weights.expand(count, -1).masked_fill(~member, -torch.inf).softmax(dim=1)
    return rows @ F.normalize(shares @ texts.vectors, dim=1).T


def dkam_loss(
    rows: Tensor, texts: ClassTexts, labels: Tensor, *, temperature: Tensor, pooling: Pooling
) -> Tensor:
    """Cross-entropy () of vectors (N, D) against a bank's classes; 0 where no row has a class.

    Args:
        rows: of pictures or of texts.
        texts: of the classes.
        labels: (N, C), 1 where a study is of a class; rows without any 1 take no part.
        temperature: (), divides similarities.
        pooling: of a class's texts.
    """
    logits = class_similarities(rows, texts, pooling) / temperature
    labels = labels.to(logits.dtype)
    count = labels.sum(dim=1, keepdim=True)
    wanted = labels / count.clamp(min=1)
    num_known = (count > 0).sum()
    return -(wanted * logits.log_softmax(dim=1)).sum() / num_known.clamp(min=1)
