"""Which images of a study are read where nothing is asked: by the sampler's score without a text.

Recognition reads a study once for all classes, in training as afterwards. So it picks by the
feature score at both times; the gradient of the pick flows through the softmax, as with a question.

Axes: B studies, K images, P tokens, D width, M images kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_ultra.config import AdaptiveSampling, RandomSampling, images_kept
from llava_ultra.connector.pick import Sampler, pick


def images_unasked(
    sampler: Sampler,
    tokens: Tensor,
    image_mask: Tensor,
    study_keys: Sequence[str] = (),
    *,
    every: bool = False,
) -> tuple[Tensor, Tensor]:
    """The images that are read of each study.

    Args:
        sampler: of the model.
        tokens: (B, K, P, D) fused tokens.
        image_mask: (B, K) bool; on any device.
        study_keys: what names each study: `random` draws by it, and anew at each call without.
        every: all images, whatever the sampler.

    Returns:
        Tokens (B, M*P, D), best first, and their mask (B, M*P) bool, beside the image mask.
    """
    num_tokens = tokens.shape[2]
    if every:
        return tokens.flatten(1, 2), image_mask.repeat_interleave(num_tokens, dim=1)
    counts = image_mask.sum(dim=1)
    count = images_kept(sampler.config, int(counts.max()))
    order = -torch.arange(tokens.shape[1], device=tokens.device).float().expand(tokens.shape[:2])
    scores = order
    if isinstance(sampler.config, AdaptiveSampling):
        scores = sampler.feature_scores(tokens)
    elif isinstance(sampler.config, RandomSampling):
        scores = torch.rand(tokens.shape[:2]).to(tokens.device)
        if study_keys:
            scores = sampler.feature_scores(tokens, study_keys)
    slots, _ = pick(scores, image_mask.to(tokens.device), count)
    picked = torch.einsum("bmk,bkpd->bmpd", slots.to(tokens.dtype), tokens)
    filled = torch.arange(count, device=counts.device) < counts[:, None]
    return picked.flatten(1, 2), filled.repeat_interleave(num_tokens, dim=1)
