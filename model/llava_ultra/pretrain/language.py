"""Causal pretraining of the small Chinese language model on the studies' own texts.

The texts are put into the chat format, so the model learns question, answer and turn tokens before
it ever meets an image: instruction tuning then only has to tie the answers to what is seen. The
loss counts every token but the padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_ultra.batch import collate_texts
from llava_ultra.config import LanguageConfig, LanguagePretrainConfig
from llava_ultra.language import IGNORED, Language, build_language_model, train_tokenizer
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches


def pretrain_language(
    pairs: Sequence[tuple[str, str]],
    model_config: LanguageConfig,
    config: LanguagePretrainConfig,
    on_step: OnStep | None = None,
) -> tuple[Language, list[float]]:
    """Train tokenizer and decoder from their seed.

    Args:
        pairs: (question, answer) texts.
        model_config: the decoder's shape.
        config: how to train.
        on_step: progress callback.

    Returns:
        The language side in evaluation mode, and the loss of each step.

    Raises:
        ValueError: there are fewer pairs than a batch.
    """
    pairs = pairs[: config.max_examples]
    if len(pairs) < config.batch_size:
        raise ValueError(
            f"{len(pairs)} texts are fewer than language batch_size {config.batch_size}; lower it"
        )
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), model_config.vocab_size)
    torch.manual_seed(config.seed)
    model = build_language_model(model_config, tokenizer)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(pairs), config.batch_size, generator)

    def step_loss() -> Tensor:
        rows = [(0, *pairs[int(index)]) for index in next(batches)]
        text = collate_texts(tokenizer, rows, max_tokens=model_config.context_length)
        logits = model(input_ids=text.ids, attention_mask=text.mask.long()).logits
        target = text.ids[:, 1:].masked_fill(~text.mask[:, 1:], IGNORED)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten(), ignore_index=IGNORED)

    losses = optimise(model, config, step_loss, on_step)
    return Language(tokenizer=tokenizer, model=model), losses
