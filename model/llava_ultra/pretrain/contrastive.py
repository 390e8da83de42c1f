"""Pretraining of the CLIP tower on images and their captions, for the objectives that are listed.

By default that is CLIP's own loss alone; what else there is stands in
`llava_ultra.objectives.pretraining`. Features of patches, terms and classes are computed where an
objective needs them.

Ultrasound captions repeat a lot, and CLIP's target calls the other images of an equal caption
wrong. A target that is spread over them (UniCL, arXiv 2204.03610) would change nothing: equal
captions have equal features, so the sum over their rows is the same, and so is its gradient.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llava_ultra.config import ClipConfig
from llava_ultra.language.chat import encode_text
from llava_ultra.objectives.pretraining.tower_objective import Knowledge, TowerBatch, TowerStates
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.pretrain_config import ClipPretrainConfig
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
    *,
    knowledge: Knowledge | None = None,
    told: dict[str, list[float]] | None = None,
) -> tuple[ClipTower, list[float]]:
    """Train a CLIP tower from its seed.

    Args:
        images: N uint8 images.
        captions: N texts.
        tokenizer: the road's tokenizer, shared with the language model.
        model_config: the tower's shape.
        config: how to train.
        on_step: progress callback.
        knowledge: what the objectives need beside images and captions, of the N examples.
        told: gets each objective's loss at each step, under `<type>_loss`.

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

    active = config.active_objectives
    needs = set().union(*(each.needs for each in active))
    with_patches = "patches" in needs
    heads = nn.ModuleDict()
    with torch.random.fork_rng(devices=()):  # all others begin as without them
        for objective in active:
            if (head := objective.build_head(model_config.embed_dim)) is not None:
                heads[objective.type] = head

    def encode(tokens: Tensor) -> Tensor:
        texts: Tensor = tower.clip.encode_text(tokens, normalize=True)
        return texts

    def step_loss() -> Tensor:
        index = next(batches)
        views, _ = maker.draw(index)
        images, patches = _look(tower, views, with_patches=with_patches)
        states = TowerStates(
            images=images,
            texts=encode(ids[index]),
            scale=tower.clip.logit_scale.exp().clamp(max=100),
            patches=patches,
            encode=encode,
            heads=heads,
        )
        batch = TowerBatch(index=index, knowledge=knowledge or Knowledge())
        losses = {each.type: each.loss(batch, states) for each in active}
        for name, loss in losses.items():
            if told is not None:
                told.setdefault(f"{name}_loss", []).append(float(loss.detach()))
        return torch.stack([each.weight * losses[each.type] for each in active]).sum()

    # without heads the tower alone, so that what is learned is the same to the bit
    learned = nn.ModuleDict({"tower": tower, "heads": heads}) if heads else tower
    losses = optimise(learned, config, step_loss, on_step)
    return tower, losses


def _look(tower: ClipTower, views: Tensor, *, with_patches: bool) -> tuple[Tensor, Tensor | None]:
    """Vectors (B, E) of views (B, 3, S, S), and where asked for of their patches (B, P, E)."""
    if not with_patches:
        return tower.clip.encode_image(views, normalize=True), None
    visual = tower.clip.visual
    visual.output_tokens = True
    try:
        pooled, tokens = visual(views)
    finally:
        visual.output_tokens = False
    return F.normalize(pooled, dim=-1), F.normalize(tokens @ visual.proj, dim=-1)


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], length: int
) -> Tensor:
    """Token ids (N, length) int64: `<s>`, the caption (cut to fit), `</s>`, padding."""
    ids = torch.full((len(captions), length), tokenizer.pad_token_id, dtype=torch.int64)
    for row, caption in zip(ids, captions, strict=True):
        body = encode_text(tokenizer, caption)[: length - 2]
        row[: len(body) + 2] = torch.tensor([tokenizer.bos_token_id, *body, tokenizer.eos_token_id])
    return ids
