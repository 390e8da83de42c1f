"""Contrastive pretraining of the CLIP tower on images and their captions, with CLIP's own loss.

Ultrasound captions repeat a lot, and CLIP's target calls the other images of an equal caption
wrong. A target that is spread over them (UniCL, arXiv 2204.03610) would change nothing: equal
captions have equal features, so the sum over their rows is the same, and so is its gradient.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llava_ultra.config import ClipConfig, ClipPretrainConfig
from llava_ultra.language.chat import encode_text
from llava_ultra.objectives.contrast import info_nce
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.views import ViewMaker
from llava_ultra.towers.clip import ClipTower

_TOKEN_STD = 0.3
"""Standard deviation of the token embeddings at the start."""


def pretrain_clip(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    model_config: ClipConfig,
    config: ClipPretrainConfig,
    on_step: OnStep | None = None,
) -> tuple[ClipTower, list[float]]:
    """Train a CLIP tower from its seed.

    Args:
        images: N uint8 images.
        captions: N texts.
        tokenizer: the road's tokenizer, shared with the language model.
        model_config: the tower's shape.
        config: how to train.
        on_step: progress callback.

    Returns:
        The tower in evaluation mode, its standardiser fresh, and the loss of each step.

    Raises:
        ValueError: there are fewer images than a batch, or counts differ.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions; give one each")
    images, captions = images[: config.max_examples], captions[: config.max_examples]
    if len(images) < config.batch_size:
        raise ValueError(
            f"{len(images)} images are fewer than bootstrap.clip.batch_size "
            f"{config.batch_size}; lower it"
        )
    torch.manual_seed(config.seed)
    tower = ClipTower(
        model_config,
        vocab_size=len(tokenizer),
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    # open_clip's 0.02 leaves all captions of a small model alike at first, and some seeds never get
    # away from there
    nn.init.normal_(tower.clip.token_embedding.weight, std=_TOKEN_STD)
    ids = encode_captions(tokenizer, captions, model_config.context_length)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(images), config.batch_size, generator)
    maker = ViewMaker(
        images, model_config.image_size, config, generator, intensity=model_config.intensity
    )

    def step_loss() -> Tensor:
        index = next(batches)
        views, _ = maker.draw(index)
        image_features = tower.clip.encode_image(views, normalize=True)
        text_features = tower.clip.encode_text(ids[index], normalize=True)
        logits = tower.clip.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        return info_nce(logits)

    losses = optimise(tower, config, step_loss, on_step)
    return tower, losses


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], length: int
) -> Tensor:
    """Token ids (N, length) int64: `<s>`, the caption (cut to fit), `</s>`, padding."""
    ids = torch.full((len(captions), length), tokenizer.pad_token_id, dtype=torch.int64)
    for row, caption in zip(ids, captions, strict=True):
        body = encode_text(tokenizer, caption)[: length - 2]
        row[: len(body) + 2] = torch.tensor([tokenizer.bos_token_id, *body, tokenizer.eos_token_id])
    return ids
