"""How likely a token was held, beside the likeliest ones at its place."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScore:
    """How likely the decoder held a token, before any rule changed what it expects."""

    token: int
    log_prob: float
    likeliest: tuple[tuple[int, float], ...]
    """The likeliest tokens at its place with their log-probabilities, the best first."""


def token_score(logits: Tensor, token: int, num_likeliest: int) -> TokenScore:
    """How likely a token was by logits (V,), beside the likeliest ones."""
    log_probs = logits.log_softmax(dim=-1)
    values, tokens = log_probs.topk(min(num_likeliest, len(log_probs)))
    return TokenScore(
        token=token,
        log_prob=float(log_probs[token]),
        likeliest=tuple(zip(tokens.tolist(), values.tolist(), strict=True)),
    )
