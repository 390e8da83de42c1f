"""Adaptive sampling: which images of a study the language model gets to see.

Axes: N text rows (one question each), B studies, K images of a study (padded), P tokens, D width, L
text tokens, M slots (images kept), G readings (picked images of a study).

The adaptive sampler picks by learned scores (`connector.scores`), the others by order or by chance:

- weighted score: `s = balance * log softmax(a) + (1 - balance) * log softmax(f)` of the attention
  score a and the feature score f while training; `inference_score` says which one picks afterwards;
- slots: the M best images, each slot a hard pick whose gradient flows through the softmax over the
  images that earlier slots left (a relaxed subset sample);
- readings: questions of a study that picked the same images, in the same order, may share one
  reading of them, which the decoder computes once. Where the attention score picks, the questions
  of a study may pick differently; then only those share that picked the same. The reading's tokens
  have the gradient of its first row's pick; those of the others are told apart where the decoder
  goes backward (`llava_ultra.reading.credit`). The rule `weighted` mixes images for each question,
  and there nothing is shared while training.

Masks and indices may lie on the CPU while the tokens are elsewhere: they decide shapes, values do
not, so that a step also runs on tensors without values (`llava_ultra.cost.trace`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.config import (
    AdaptiveSampling,
    FirstSampling,
    KeepAllSampling,
    RandomSampling,
    SamplingConfig,
    images_kept,
)
from llava_ultra.connector.scores import Scores, gather_studies, masked_log_softmax


@dataclass(frozen=True, kw_only=True)  # without slots: ZeRO-3 looks for tensors with `vars`
class Selection:
    """The images that were picked for each text row."""

    tokens: Tensor
    """(G, M * P, D): tokens of the picked images, best first."""
    mask: Tensor
    """(G, M * P) bool: False where a study has fewer than M images; beside the image mask."""
    reading: Tensor
    """(N,) int64: the reading of each row, among the G; beside the image mask."""
    slots: Tensor | None
    """(N, M, K): the picks, where rows share readings and learn to pick; else None."""
    probabilities: Tensor
    """(N, K): the softmaxed score; 0 at padding; sums to 1."""
    indices: Tensor
    """(N, M): position of the picked image; -1 for an empty slot."""
    feature_scores: Tensor | None = None
    """(N, K): the learned feature scores; None where this sampler has none."""
    attention_scores: Tensor | None = None
    """(N, K): the attention scores, -inf at padding; None where they were not computed."""


class Sampler(nn.Module):
    """Picks images; see the module's docstring."""

    def __init__(self, config: SamplingConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        self.scores: Scores | None = None
        if isinstance(config, AdaptiveSampling):
            self.scores = Scores(width=width, word_weights=config.word_weights)

    def feature_scores(self, tokens: Tensor, study_keys: Sequence[str] = ()) -> Tensor:
        """Score images before any text is known; zeros where nothing is learned or drawn.

        Args:
            tokens: (B, K, P, D), or (K, P, D) of one study.
            study_keys: what names each of the B studies. `random` draws by it, so that a study has
                the same scores in every batch and all options of a question are judged by the same
                images; the others do not look at it.

        Returns:
            (B, K) or (K,).
        """
        if isinstance(self.config, RandomSampling) and study_keys:
            drawn = [_draw(key, tokens.shape[-3]) for key in study_keys]
            return tokens.new_tensor(drawn).view(tokens.shape[:-2])
        if self.scores is None:
            return tokens.new_zeros(tokens.shape[:-2])
        return self.scores.features(tokens)

    def attention_scores(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """Attention scores (N, K) of a sampler that learns them: see `Scores.attention`."""
        assert self.scores is not None, f"sampling {self.config.type!r} has no attention score"
        return self.scores.attention(tokens, image_mask, study_index, text, text_mask)

    def forward(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
        feature_scores: Tensor | None = None,
        *,
        share: bool = False,
    ) -> Selection:
        """Pick the images of each text row.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K) bool, True for real images; at least one per study.
            study_index: (N,) int64, the study of each text row.
            text: (N, L, D) embedded text: with the answer in training, without it otherwise.
            text_mask: (N, L) bool.
            feature_scores: (B, K), where they were computed before; else they are computed here.
            share: whether rows that picked the same share a reading; else each has its own.

        Raises:
            ValueError: a study has no image, or `random` has no scores while evaluating.
        """
        if not bool(image_mask.any(dim=1).all()):
            raise ValueError("a study has 0 images to sample from (K = 0); drop it at ingest")
        row_mask = gather_studies(image_mask, study_index)
        counts = row_mask.sum(dim=1)
        num_slots = images_kept(self.config, int(counts.max()))
        feature = self._feature(tokens, row_mask, study_index, feature_scores)
        scores, attention = self._scores(feature, tokens, image_mask, study_index, text, text_mask)
        visible = row_mask.to(tokens.device)
        slots, indices = pick(scores, visible, num_slots)
        soft = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        config = self.config
        weighted = isinstance(config, AdaptiveSampling) and config.training_rule == "weighted"
        if self.training and weighted:
            slots = soft[:, None]
            indices = indices[:, :1]
        mixed = self.training and weighted
        reading, first = shared_readings(study_index, indices if share and not mixed else None)
        of_studies = gather_studies(tokens, study_index[first])
        shared = slots.index_select(0, first.to(slots.device)).to(tokens.dtype)
        picked = torch.einsum("gmk,gkpd->gmpd", shared, of_studies)
        learns = slots.requires_grad and len(first) < len(study_index)
        filled = torch.arange(indices.shape[1], device=counts.device) < counts[first, None]
        return Selection(
            tokens=picked.flatten(1, 2),
            mask=filled.repeat_interleave(tokens.shape[2], dim=1),
            reading=reading,
            slots=slots if learns else None,
            probabilities=soft,
            indices=indices,
            feature_scores=feature if self.scores is not None else None,
            attention_scores=attention,
        )

    def _feature(
        self,
        tokens: Tensor,
        row_mask: Tensor,
        study_index: Tensor,
        feature_scores: Tensor | None,
    ) -> Tensor:
        """What is known of each row's images without its text: (N, K)."""
        if isinstance(self.config, RandomSampling):
            if self.training:
                return torch.rand(row_mask.shape, device="cpu").to(tokens.device)  # of each row
            if feature_scores is None:
                raise ValueError(
                    "sampling 'random' has no feature_scores to pick by while evaluating; draw "
                    "them by study with Sampler.feature_scores(tokens, study_keys)"
                )
        if feature_scores is None:
            feature_scores = self.feature_scores(tokens)
        return gather_studies(feature_scores, study_index)

    def _scores(
        self,
        feature: Tensor,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (N, K) to pick by, and the attention scores (N, K); `feature` is (N, K)."""
        match self.config:
            case FirstSampling() | KeepAllSampling():
                order = torch.arange(feature.shape[1], device=tokens.device)
                return -order.float().expand(feature.shape), None
            case RandomSampling():
                return feature, None
            case AdaptiveSampling() as config:
                rule = "balanced" if self.training else config.inference_score
                row_mask = gather_studies(image_mask, study_index).to(tokens.device)
                log_feature = masked_log_softmax(feature, row_mask)
                if rule == "feature":
                    return log_feature, None
                attention = self.attention_scores(tokens, image_mask, study_index, text, text_mask)
                log_attention = masked_log_softmax(attention, row_mask)
                if rule == "attention":
                    return log_attention, attention
                scores = config.balance * log_attention + (1 - config.balance) * log_feature
                return scores, attention


def shared_readings(study_index: Tensor, indices: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which text rows read the same images of the same study.

    Args:
        study_index: (N,) int64.
        indices: (N, M), what each row picked; None where no two rows read the same. Of tensors
            without values it is assumed that the questions of a study pick alike.

    Returns:
        The reading of each row (N,), numbered as they appear, and each one's first row (G,); both
        where `study_index` lies.
    """
    if indices is None:
        every = torch.arange(len(study_index), device=study_index.device)
        return every, every
    studies = study_index.tolist()
    picks = [[]] * len(studies) if indices.is_meta else indices.tolist()
    numbers: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    reading: list[int] = []
    for row, (study, picked) in enumerate(zip(studies, picks, strict=True)):
        number = numbers.setdefault((study, *picked), len(numbers))
        if number == len(first):
            first.append(row)
        reading.append(number)
    device = study_index.device
    return torch.tensor(reading, device=device), torch.tensor(first, device=device)


def _draw(key: str, num_images: int) -> list[float]:
    """Numbers in [0, 1) that follow from a study's key; those of fewer images begin alike."""
    generator = random.Random(key)  # noqa: S311 - no secret
    return [generator.random() for _ in range(num_images)]


def pick(scores: Tensor, image_mask: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Pick the best images, hard forward and soft backward.

    Args:
        scores: (N, K), higher is better.
        image_mask: (N, K) bool; padding is never picked.
        num_slots: M.

    Returns:
        Slots (N, M, K), one-hot in value with the gradient of the softmax over what earlier slots
        left; all zero for an empty slot. And indices (N, M), -1 for an empty slot.
    """
    left = image_mask.clone()
    slots, indices = [], []
    for _ in range(num_slots):
        empty = ~left.any(dim=1)
        masked = scores.masked_fill(~left, -torch.inf)
        # An exhausted row has only -inf: give its softmax something finite and zero it below.
        soft = masked.masked_fill(empty[:, None], 0.0).softmax(dim=-1)
        best = masked.argmax(dim=-1)
        hard = F.one_hot(best, scores.shape[1]).to(soft.dtype)
        slot = (hard + (soft - soft.detach())).masked_fill(empty[:, None], 0.0)
        slots.append(slot)
        indices.append(best.masked_fill(empty, -1))
        left = left & ~hard.bool()
    return torch.stack(slots, dim=1), torch.stack(indices, dim=1)
