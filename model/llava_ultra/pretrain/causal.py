"""Causal pretraining of the small Chinese language model on the studies' own texts.

The texts are put into the chat format, so the model learns question, answer and turn tokens before
it ever meets an image. And it learns to read: where the images' tokens will stand, between `<s>`
and the question, stand hints, the shuffled clauses of what else is said of the same study, and in
some rows those of the answer itself. A large language model answers from its context by nature; a
small one that never had to does not look there, and the connector then has nothing to speak to. On
1,024 phantom studies, after 200 steps of the connector: closed accuracy 0.71 with hints, 0.61
without (docs/results.md). Noise on the hints keeps them from being exact word vectors, which image
tokens never are.

The loss counts every token but the padding and the hints, and beside it every answer as one,
however long it is: a closed question's answer has one token that depends on the hints, of some
thirty in its row.
"""

import random
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llava_ultra.batch import TextBatch, collate_texts
from llava_ultra.config import LanguageConfig
from llava_ultra.language.chat import IGNORED, encode_text
from llava_ultra.language.decoder import Language, build_language_model
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.pretrain_config import LanguagePretrainConfig
from llava_ultra.reading.sequence import positions

Pair = tuple[str | Sequence[str], str]
"""Question, or a conversation that ends in one, and answer."""


def pretrain_language(
    conversations: Sequence[Sequence[Pair]],
    tokenizer: PreTrainedTokenizerFast,
    model_config: LanguageConfig,
    config: LanguagePretrainConfig,
    on_step: OnStep | None = None,
) -> tuple[Language, list[float]]:
    """Train the decoder from its seed.

    Args:
        conversations: what is asked and answered about each study.
        tokenizer: trained on such texts.
        model_config: the decoder's shape.
        config: how to train.
        on_step: progress callback.

    Returns:
        The language side in evaluation mode, and the loss of each step.

    Raises:
        ValueError: there are fewer pairs than a batch.
    """
    examples = [(said, turn) for said in conversations for turn in range(len(said))]
    examples = examples[: config.max_examples]
    if len(examples) < config.batch_size:
        raise ValueError(
            f"{len(examples)} texts are fewer than bootstrap.language.batch_size "
            f"{config.batch_size}; lower it"
        )
    torch.manual_seed(config.seed)
    model = build_language_model(model_config, tokenizer)
    embed = model.get_input_embeddings()
    assert isinstance(embed, nn.Embedding)
    # Vectors of length 1. From the Llama's 0.02 those of words in the same contexts grow in
    # parallel and stay alike: left and right were 0.4 apart, high and low 0.9.
    nn.init.normal_(embed.weight, std=embed.embedding_dim**-0.5)
    generator = torch.Generator().manual_seed(config.seed)
    shuffle = random.Random(config.seed)  # noqa: S311 - no secret
    batches = shuffled_batches(len(examples), config.batch_size, generator)

    def step_loss() -> Tensor:
        chosen = [examples[int(index)] for index in next(batches)]
        text = collate_texts(
            tokenizer,
            [(0, *said[turn]) for said, turn in chosen],
            max_tokens=model_config.context_length,
        )
        room = min(config.hint_tokens, model_config.context_length - text.ids.shape[1])
        hints, hint_mask = _hints(tokenizer, chosen, room, config, shuffle)
        noise = torch.randn((*hints.shape, embed.embedding_dim), generator=generator)
        scale = config.hint_noise * embed.weight.detach().pow(2).mean().sqrt()
        words = embed(text.ids)
        hinted = embed(hints) + scale * noise
        embeds = torch.cat([words[:, :1], hinted, words[:, 1:]], dim=1)
        mask = torch.cat([text.mask[:, :1], hint_mask, text.mask[:, 1:]], dim=1)
        logits = model(
            inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions(mask)
        ).logits
        return _text_loss(logits[:, hints.shape[1] :], text)

    losses = optimise(model, config, step_loss, on_step)
    return Language(tokenizer=tokenizer, model=model), losses


def clauses(answer: str) -> list[str]:
    """Split an answer at its punctuation; blank parts are dropped."""
    return [part for part in re.split(r"[，。；：,;]", answer) if part.strip()]


def _hints(
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[Sequence[Pair], int]],
    room: int,
    config: LanguagePretrainConfig,
    shuffle: random.Random,
) -> tuple[Tensor, Tensor]:
    """Hints (N, room) int64 and their mask, bool, right-padded, of (conversation, turn) rows."""
    ids = torch.full((len(examples), room), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, (said, turn) in enumerate(examples):
        if shuffle.random() >= config.hint_rate:
            continue
        told = shuffle.random() < config.hint_own_rate
        parts = [
            part
            for other, (_, answer) in enumerate(said)
            if other != turn or told
            for part in clauses(answer)
        ]
        shuffle.shuffle(parts)
        tokens = [token for part in parts for token in encode_text(tokenizer, part)]
        tokens = tokens[:room]
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, : len(tokens)] = True
    return ids, mask


def _text_loss(logits: Tensor, text: TextBatch) -> Tensor:
    """Mean cross-entropy () of all tokens given those before them, plus the mean over answers."""
    target = text.ids[:, 1:].masked_fill(~text.mask[:, 1:], IGNORED)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), target, reduction="none")
    answered = (text.labels[:, 1:] != IGNORED).float()
    of_answers = (losses * answered).sum(dim=1) / answered.sum(dim=1).clamp(min=1)
    return losses.sum() / text.mask[:, 1:].sum() + of_answers.mean()
