"""Log-likelihoods of candidate answers behind prompts that were read once.

A question's options share all that stands before them, its images above all: some 500 tokens of
prompt, and two to six of an option. So the prompt is read once (`step.read_prompts`), and an option
is a branch of its cache. Scored as rows of their own, the options of a question read the prompt
once each, and logits are computed at every place of it.

Two limits hold the memory. Branches are scored in batches of at most `max_tokens` cached tokens,
and an answer is fed in pieces whose logits, V a position, stay below `MAX_LOGITS`.

Axes: N answers, L answer tokens (the end token included), V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_ultra.decoding.step import Context, branch, extend
from llava_ultra.model import LlavaUltra

MAX_LOGITS = 2**26
"""Logits that are alive at once (268 MB in float32), or those of one position of every row."""


def batches_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group rows so that a group, padded to its longest row, holds at most `max_tokens` tokens.

    Rows of like length come together, the shortest first. A row that is longer than `max_tokens` is
    a group of its own.

    Args:
        lengths: tokens of each row.
        max_tokens: the limit.

    Returns:
        Positions among `lengths`, each once.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if groups and (len(groups[-1]) + 1) * lengths[row] <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


@torch.no_grad()
def answer_log_likelihoods(
    model: LlavaUltra,
    context: Context,
    prompt_of: Sequence[int],
    answers: Sequence[Sequence[int]],
    *,
    max_tokens: int,
) -> Tensor:
    """Log-likelihood of each answer, all its tokens together.

    Args:
        model: in evaluation mode.
        context: the prompts, read; they can be used again.
        prompt_of: the prompt of each of the N answers, as its row in the context.
        answers: token ids of each, the end token included.
        max_tokens: cached tokens that are alive at once, beside the prompts' own.

    Returns:
        (N,) float32.
    """
    device = context.logits.device
    rows = torch.tensor(prompt_of, device=device)
    result = torch.zeros(len(answers), device=device)
    first = torch.tensor([ids[0] for ids in answers], device=device)
    result += _log_probs(context.logits[:, None], first[:, None], rows)[:, 0]
    length = context.mask.shape[1]
    more = [number for number, ids in enumerate(answers) if len(ids) > 1]
    lengths = [length + len(answers[number]) - 1 for number in more]
    for group in batches_by_tokens(lengths, max_tokens):
        chosen = torch.tensor([more[place] for place in group], device=device)
        scores = _continuation(
            model, branch(context, rows[chosen]), [answers[more[place]] for place in group]
        )
        result[chosen] += scores
    return result


def _continuation(model: LlavaUltra, context: Context, answers: Sequence[Sequence[int]]) -> Tensor:
    """Log-likelihood (N,) of answers without their first token, one behind each row.

    Padding stands behind an answer's end and so changes nothing of it; its own predictions are
    left out of the sum.
    """
    most = max(map(len, answers))
    device = context.logits.device
    ids = torch.zeros(len(answers), most, dtype=torch.int64)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer)
        real[row, : len(answer)] = True
    ids, real = ids.to(device), real.to(device)
    total = torch.zeros(len(answers), device=device)
    piece = max(1, MAX_LOGITS // (len(answers) * context.logits.shape[-1]))
    for start in range(0, most - 1, piece):
        end = min(start + piece, most - 1)
        context, logits = extend(model, context, ids[:, start:end], all_logits=True)
        log_probs = _log_probs(logits, ids[:, start + 1 : end + 1])
        total += log_probs.masked_fill(~real[:, start + 1 : end + 1], 0.0).sum(dim=1)
    return total


def _log_probs(logits: Tensor, ids: Tensor, rows: Tensor | None = None) -> Tensor:
    """Log-probability (N, L) of tokens `ids` (N, L), without a second tensor of V a position.

    Args:
        logits: (N, L, V), or (M, L, V) of which `rows` (N,) names one for each.
        ids: the tokens.
        rows: None where each has its own.
    """
    totals = logits.float().logsumexp(dim=-1)
    if rows is None:
        return logits.gather(-1, ids[..., None])[..., 0].float() - totals
    places = torch.arange(logits.shape[1], device=logits.device)
    return logits[rows[:, None], places, ids].float() - totals[rows]
