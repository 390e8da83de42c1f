"""Learned scores over a study's images: which of them shows what is asked or said.

Axes: N text rows (one question each), B studies, K images of a study (padded), P tokens, D width,
L text tokens, T real tokens of all rows.

One text belongs to several images, of which only some show what it says. The paper screens them by
"weighted scoring with knowledge distillation"; its equations could not be found, so these are ours:

- feature score, from the fused tokens alone:  `f_k = MLP([mean_p H_kp, max_p H_kp])`;
- attention score: every text token attends to all image tokens of the study,
  `A_l,kp = softmax_kp(q_l . k_kp / sqrt(D))`, and an image's score is the log of its mean mass,
  `a_k = log sum_l w_l m_lk`, `m_lk = sum_p A_l,kp`. Most words of a report ("the", "lobe") fit
  every image; so a word weighs by the nats by which its attention is surer than a guess,
  `w_l ~ log K - H(m_l)`. In training the text includes the answer.

How they are weighted and picked by stands in `connector.pick`; what teaches them, beside the answer
itself, are the distillation and the grounding objective (`llava_ultra.objectives`).

Masks and indices may lie on the CPU while the tokens are elsewhere.
"""

from typing import Literal

import torch
from torch import Tensor, nn

LEAST_INFORMATION = 1e-4
"""Nats that every word is granted: where none tells images apart, all weigh the same."""


class Scores(nn.Module):
    """The feature score and the attention score; see the module's docstring."""

    def __init__(self, *, width: int, word_weights: Literal["information", "equal"]) -> None:
        super().__init__()
        self.word_weights = word_weights
        # without a last bias: it would move all scores of a study alike, so its gradient would be
        # rounding noise, of which Adam makes whole steps
        self.feature_head = nn.Sequential(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Linear(width, 1, bias=False),
        )
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False))
        self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False))

    def features(self, tokens: Tensor) -> Tensor:
        """Score images before any text is known: (..., K, P, D) to (..., K)."""
        pooled = torch.cat([tokens.mean(dim=-2), tokens.amax(dim=-2)], dim=-1)
        scores: Tensor = self.feature_head(pooled).squeeze(-1)
        return scores

    def queries(self, text: Tensor) -> Tensor:
        """Scaled queries of text tokens: (..., D) to (..., D)."""
        queries: Tensor = self.query(text) / text.shape[-1] ** 0.5
        return queries

    def keys(self, tokens: Tensor) -> Tensor:
        """Keys of image tokens: (..., D) to (..., D)."""
        keys: Tensor = self.key(tokens)
        return keys

    def attention(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """Score images by the attention that text pays them.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K), True for real images.
            study_index: (N,) int64, the study of each text row.
            text: (N, L, D) embedded text.
            text_mask: (N, L), True for real text.

        Returns:
            (N, K) log attention mass; -inf at padding.
        """
        num_images, num_tokens = tokens.shape[1:3]
        device = tokens.device
        # A study's words side by side, without padding of rows: its keys are not repeated for each
        # of its rows, and most of a batch's longest row is padding.
        row, column = (each.to(device) for each in text_mask.nonzero(as_tuple=True))
        study = study_index.to(device).index_select(0, row)
        place, most = places_within(study_index, text_mask)
        place = place.to(device)
        words = text.to(tokens.dtype)[row, column]  # a decoder may be kept in half precision
        queries = self.queries(words)
        by_study = queries.new_zeros(len(tokens), most, queries.shape[1])
        by_study = by_study.index_put((study, place), queries)
        logits = by_study @ self.keys(tokens).flatten(1, 2).transpose(1, 2)  # (B, words, K*P)
        visible = image_mask.to(device).repeat_interleave(num_tokens, dim=1)[:, None]
        attention = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        masses = attention.view(*attention.shape[:2], num_images, num_tokens).sum(dim=-1)
        mass = masses[study, place]  # (T, K)
        counts = image_mask.sum(dim=1).to(device).index_select(0, study)
        weights = self._word_weights(mass, counts)
        sums = mass.new_zeros(len(text), num_images).index_add(0, row, mass * weights[:, None])
        totals = mass.new_zeros(len(text)).index_add(0, row, weights).clamp(min=LEAST_INFORMATION)
        row_mask = gather_studies(image_mask, study_index).to(device)
        scores: Tensor = (sums / totals[:, None]).clamp(min=1e-9).log()
        return scores.masked_fill(~row_mask, -torch.inf)

    def _word_weights(self, mass: Tensor, num_images: Tensor) -> Tensor:
        """What each word counts in its row's attention score: (T,).

        Args:
            mass: (T, K), sums to 1 over images.
            num_images: (T,) int64, of the word's study.
        """
        if self.word_weights == "equal":
            return mass.new_ones(len(mass))
        # Only a weight: its own gradient would teach words to be sure, not to be right.
        mass = mass.detach()
        entropy = -torch.xlogy(mass, mass).sum(dim=-1)
        return (num_images.to(mass.dtype).log() - entropy).clamp(min=LEAST_INFORMATION)


def masked_log_softmax(scores: Tensor, image_mask: Tensor) -> Tensor:
    """Log-softmax (N, K) whose padding is a large negative number, so that products are finite."""
    return scores.masked_fill(~image_mask, -1e9).log_softmax(dim=-1)


def gather_studies(values: Tensor, study_index: Tensor) -> Tensor:
    """Repeat per-study values (B, ...) for each text row: (N, ...)."""
    return values.index_select(0, study_index.to(values.device))


def places_within(study_index: Tensor, text_mask: Tensor) -> tuple[Tensor, int]:
    """Where each real word stands among those of its study, and the most words of a study.

    Args:
        study_index: (N,) int64.
        text_mask: (N, L) bool.

    Returns:
        (T,) int64, in the order of `text_mask.nonzero()`.
    """
    lengths = text_mask.sum(dim=1).tolist()
    taken: dict[int, int] = {}
    starts = []
    for study, length in zip(study_index.tolist(), lengths, strict=True):
        starts.append(taken.get(study, 0))
        taken[study] = starts[-1] + length
    places = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)])
    return places, max(taken.values())
