"""InfoNCE: tell the own pair from all others, in both directions.

The grounding objective compares texts with studies by it, CLIP's pretraining captions with images.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def info_nce(similarity: "Tensor") -> "Tensor":
    """Symmetric cross-entropy () of similarities (B, B), whose diagonal holds the own pairs."""
    import torch
    import torch.nn.functional as F

    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
