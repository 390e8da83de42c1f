"""Adapters for the roles of structured extraction: the whole task and its two halves.

As in ALCD (arXiv 2410.15702) three low-rank adapters stand on one decoder. That of the whole task
learns whole answers. The other two learn the same answers with the tokens of the other half left
out of the loss: `identify` the values and where each ends, `classify` the names of fields.

Ours: the halves begin as copies of the whole, and by default work behind the prompt alone, which
they get as the whole's adapter read it. A prompt is then read once for three adapters
(`llava_ultra.batching.voices`), and learned from faster. `own_prompt` lets each read it by itself.

Axes: N examples, S prompt tokens, L answer tokens.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import DynamicCache

from llava_ultra.config import LoraSettings
from llava_ultra.language.chat import IGNORED
from llava_ultra.language.decoder import Language
from llava_ultra.language.lora import add_lora
from llava_ultra.language.role_names import ROLES
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.pretrain_config import RolesConfig
from llava_ultra.reading.sequence import positions

_WHOLE = "default"
"""What PEFT calls the first adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleExample:
    """A prompt and its answer in fields."""

    prompt: Sequence[int]
    """Token ids up to where the assistant speaks."""
    answer: Sequence[int]
    """Token ids with the end token."""
    classifies: Sequence[bool]
    """Of each of the answer's tokens whether it is the `classify` role's: the name of a field and
    what ends it."""


def train_roles(
    language: Language,
    examples: Sequence[RoleExample],
    lora: LoraSettings,
    config: RolesConfig,
    on_step: OnStep | None = None,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[float]]]:
    """Train the three adapters, the whole first.

    Args:
        language: the decoder, which gets its adapters and loses them again; it stays as it is.
        examples: what is learned.
        lora: the adapters' shape.
        config: how to train; `steps` for the whole, and as many for each half.
        on_step: progress callback, over the steps of all three.

    Returns:
        By role the weights as PEFT names them, and the loss of each step.

    Raises:
        ValueError: there are fewer examples than a batch, or a loss became NaN or infinite.
    """
    if len(examples) < config.batch_size:
        raise ValueError(
            f"{len(examples)} reports with text are fewer than extract.roles.batch_size "
            f"{config.batch_size}; lower it"
        )
    torch.manual_seed(config.seed)
    model: Any = add_lora(language.model, lora)
    states: dict[str, dict[str, Tensor]] = {}
    losses: dict[str, list[float]] = {}
    for number, role in enumerate(ROLES):
        name = _WHOLE
        if number:
            name = role
            model.add_adapter(name, model.peft_config[_WHOLE])
            set_peft_model_state_dict(model, dict(states[ROLES[0]]), adapter_name=name)
        model.set_adapter(name)
        reader = name if config.own_prompt else _WHOLE
        pad = int(language.tokenizer.pad_token_id)
        losses[role] = _train(model, (name, reader), examples, role, config, pad, on_step)
        states[role] = {
            key: tensor.detach().cpu().clone()
            for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()
        }
    model.unload()
    language.model.eval()  # type: ignore[no-untyped-call]
    return states, losses


def _train(
    model: PeftModel,
    names: tuple[str, str],
    examples: Sequence[RoleExample],
    role: str,
    config: RolesConfig,
    pad: int,
    on_step: OnStep | None,
) -> list[float]:
    """Train one adapter; `names` are its own and that of the prompt's reader."""
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(examples), config.batch_size, generator)
    done = ROLES.index(role) * config.steps

    def step_loss() -> Tensor:
        chosen = [examples[int(index)] for index in next(batches)]
        return answer_loss(model, names, chosen, role, pad)

    def post(step: int, _: int, loss: float) -> None:
        if on_step is not None:
            on_step(done + step, len(ROLES) * config.steps, loss)

    return optimise(model, config, step_loss, post)


def answer_loss(
    model: PeftModel, names: tuple[str, str], examples: Sequence[RoleExample], role: str, pad: int
) -> Tensor:
    """Mean cross-entropy () of the answers' tokens that are a role's.

    Args:
        model: with the adapters.
        names: the adapter that learns, and the one that reads the prompts up to their last token.
        examples: N of them.
        role: one of `ROLES`.
        pad: id of padding.
    """
    name, reader = names
    prompts, prompt_mask = _padded([each.prompt[:-1] for each in examples], pad, on_left=True)
    tails, tail_mask = _padded([[each.prompt[-1], *each.answer[:-1]] for each in examples], pad)
    labels = _labels(examples, role, tails.shape[1])
    cache = DynamicCache(config=model.config)
    model.set_adapter(reader)
    with nullcontext() if reader == name else torch.no_grad():
        model(
            input_ids=prompts,
            attention_mask=prompt_mask.long(),
            position_ids=positions(prompt_mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    model.set_adapter(name)
    mask = torch.cat([prompt_mask, tail_mask], dim=1)
    logits = model(
        input_ids=tails,
        attention_mask=mask.long(),
        position_ids=positions(mask)[:, prompts.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    ).logits
    # a batch of reports without fields has nothing for the role that names them: 0 and no NaN
    total = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


def _labels(examples: Sequence[RoleExample], role: str, length: int) -> Tensor:
    """What follows each token that is fed: (N, L) int64, `IGNORED` where it is not the role's."""
    labels = torch.full((len(examples), length), IGNORED)
    for row, each in enumerate(examples):
        for place, (token, classifies) in enumerate(zip(each.answer, each.classifies, strict=True)):
            if role == ROLES[0] or classifies == (role == "classify"):
                labels[row, place] = token
    return labels


def _padded(
    rows: Sequence[Sequence[int]], pad: int, *, on_left: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows of ids as (N, S) int64, padded on one side, and their mask, bool."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        own = slice(longest - len(row), longest) if on_left else slice(0, len(row))
        ids[place, own] = torch.tensor(row, dtype=torch.int64)
        mask[place, own] = True
    return ids, mask
