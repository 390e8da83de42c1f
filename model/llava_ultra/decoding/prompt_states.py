"""The decoder's states in front of its answers, of as many layers as are wanted.

Axes: B studies, K images, P tokens, N prompts, S positions, L layers, D width.

The state behind a prompt's last token is all that the decoder goes by when it begins to answer. The
pass is that of `llava_ultra.decoding.step.read_prompts`, without a cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_ultra.batch import TextBatch
from llava_ultra.decoding.likelihood import batches_by_tokens
from llava_ultra.decoding.step import align_right
from llava_ultra.model import LlavaUltra
from llava_ultra.reading.sequence import positions


@torch.no_grad()
def question_states(
    model: LlavaUltra,
    tokens: Tensor,
    image_mask: Tensor,
    text: TextBatch,
    feature_scores: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    max_tokens: int,
) -> Tensor:
    """States in front of the answers to N questions: (N, L, D) float32, on the CPU.

    Args:
        model: in evaluation mode.
        tokens: (B, K, P, D) fused tokens.
        image_mask: (B, K) bool.
        text: the questions, without answers; on the CPU.
        feature_scores: (B, K), where they were computed before.
        layers: as `prompt_states` takes them.
        max_tokens: of prompts that are read together.
    """
    images = image_mask.shape[1] * model.config.num_tokens
    lengths = (text.mask.sum(dim=1) + images).tolist()
    found: dict[int, Tensor] = {}
    for group in batches_by_tokens(lengths, max_tokens):
        part = text.select(group).to(tokens.device)
        reading = model.read(tokens, image_mask, part, feature_scores)
        states = prompt_states(model, reading.embeds, reading.mask, layers)
        found |= zip(group, states.cpu(), strict=True)
    return torch.stack([found[number] for number in range(len(lengths))])


@torch.no_grad()
def prompt_states(
    model: LlavaUltra, embeds: Tensor, mask: Tensor, layers: Sequence[int] | None = None
) -> Tensor:
    """States of each prompt's last token: (N, L, D) float32.

    Args:
        model: in evaluation mode.
        embeds: (N, S, D) prompts.
        mask: (N, S) bool, padding anywhere.
        layers: 0 for the embeddings, 1 and up for layers, -1 for the last one, behind the decoder's
            norm; None for all.
    """
    embeds, mask = align_right(embeds, mask)
    longest = int(mask.sum(dim=1).max())
    embeds, mask = embeds[:, -longest:], mask[:, -longest:]
    decoder = model.language_model.get_decoder()  # type: ignore[operator]
    states = decoder(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    chosen = range(len(states)) if layers is None else layers
    return torch.stack([states[layer][:, -1] for layer in chosen], dim=1).float()
