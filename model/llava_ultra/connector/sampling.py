"""Adaptive sampling: which images of a study the language model gets to see.

Axes: N text rows (one question each), K images of a study (padded), P tokens, D width, L text
tokens, M slots (images kept).

One text belongs to several images, of which only some show what it says. The paper screens them by
"weighted scoring with knowledge distillation"; its equations could not be found, so these are ours:

- feature score, from the fused tokens alone:  `f_k = MLP([mean_p H_kp, max_p H_kp])`;
- attention score: every text token attends to all image tokens of the study,
  `A_l,kp = softmax_kp(q_l . k_kp / sqrt(D))`, and an image's score is the log of its mean mass,
  `a_k = log sum_l w_l m_lk`, `m_lk = sum_p A_l,kp`. Most words of a report ("the", "lobe") fit
  every image; so a word weighs by the nats by which its attention is surer than a guess,
  `w_l ~ log K - H(m_l)`. In training the text includes the answer;
- weighted score: `s = balance * log softmax(a) + (1 - balance) * log softmax(f)`;
- distillation: `KL(stopgrad softmax(a / T) || softmax(f / T))`, which teaches the feature score to
  pick without the answer, as inference must;
- grounding (multiple-instance InfoNCE): the answer loss alone moves the attention score too slowly,
  because at first no picked image helps the decoder. So each study's longest text must find its own
  study among those of the batch, `S_ij = max-like_k mean_l max-like_p q_il . k_jkp / sqrt(D)`. Here
  max-like is log-mean-exp: one matching image, and in it one matching place, is enough; and S is
  divided by a temperature. The batch is one worker's share of a step: workers exchange gradients,
  not studies;
- slots: the M best images, each slot a hard pick whose gradient flows through the softmax over the
  images that earlier slots left (a relaxed subset sample).
"""

import math
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

LEAST_INFORMATION = 1e-4
"""Nats that every word is granted: where none tells images apart, all weigh the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images that were picked for each text row."""

    tokens: Tensor
    """(N, M * P, D): tokens of the picked images, best first."""
    mask: Tensor
    """(N, M * P) bool: False where a study has fewer than M images."""
    probabilities: Tensor
    """(N, K): the softmaxed score; 0 at padding; sums to 1."""
    indices: Tensor
    """(N, M): position of the picked image; -1 for an empty slot."""
    distillation_loss: Tensor
    """(): mean KL of the batch; 0 where nothing is distilled."""


def gather_studies(values: Tensor, study_index: Tensor) -> Tensor:
    """Repeat per-study values (B, ...) for each text row: (N, ...)."""
    return values.index_select(0, study_index)


class Sampler(nn.Module):
    """Scores and picks images; see the module's docstring for the equations."""

    def __init__(self, config: SamplingConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        if isinstance(config, AdaptiveSampling):
            self.feature_head = nn.Sequential(
                nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1)
            )
            self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False))
            self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False))

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
        if not isinstance(self.config, AdaptiveSampling):
            return tokens.new_zeros(tokens.shape[:-2])
        pooled = torch.cat([tokens.mean(dim=-2), tokens.amax(dim=-2)], dim=-1)
        scores: Tensor = self.feature_head(pooled).squeeze(-1)
        return scores

    def attention_scores(
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
        keys = gather_studies(self.key(tokens).flatten(1, 2), study_index)  # (N, K*P, D)
        image_mask = gather_studies(image_mask, study_index)
        logits = self._queries(text) @ keys.transpose(1, 2)  # (N, L, K*P)
        visible = image_mask.repeat_interleave(num_tokens, dim=1)[:, None]
        attention = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        mass = attention.view(len(text), -1, num_images, num_tokens).sum(dim=-1)  # (N, L, K)
        mean_mass = (mass * self._word_weights(mass, image_mask, text_mask)[:, :, None]).sum(dim=1)
        scores: Tensor = mean_mass.clamp(min=1e-9).log().masked_fill(~image_mask, -torch.inf)
        return scores

    def _word_weights(self, mass: Tensor, image_mask: Tensor, text_mask: Tensor) -> Tensor:
        """What each word counts in the attention score: (N, L), sums to 1 over real words.

        Args:
            mass: (N, L, K), sums to 1 over images.
            image_mask: (N, K) bool.
            text_mask: (N, L) bool.
        """
        weights = text_mask.to(mass.dtype)
        assert isinstance(self.config, AdaptiveSampling)  # no other has queries and keys
        if self.config.word_weights == "information":
            # Only a weight: its own gradient would teach words to be sure, not to be right.
            mass = mass.detach()
            entropy = -torch.xlogy(mass, mass).sum(dim=-1)
            most = image_mask.sum(dim=1, keepdim=True).to(mass.dtype).log()
            weights = weights * (most - entropy).clamp(min=LEAST_INFORMATION)
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=LEAST_INFORMATION)

    def grounding_similarity(
        self, tokens: Tensor, image_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> Tensor:
        """Similarity of every text to every study; see the module's docstring.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K) bool.
            text: (B, L, D), the embedded text of each study.
            text_mask: (B, L) bool.

        Returns:
            (B, B), texts by studies, divided by the temperature.
        """
        # Padding is left out before anything is computed: of the pairs of a text token and a place,
        # the largest tensor of a training step, it makes two thirds.
        num_tokens = tokens.shape[2]
        images, texts = _places(image_mask, tokens.device), _places(text_mask, tokens.device)
        keys = self.key(tokens[images]).flatten(0, 1)  # (I*P, D), I real images
        logits = self._queries(text[texts]) @ keys.T  # (T, I*P), T real text tokens
        best_place = logits.view(len(logits), -1, num_tokens).logsumexp(dim=-1)  # (T, I)
        of_text = F.one_hot(texts[0], len(text)).T.to(best_place.dtype)  # (B, T)
        sums = of_text @ best_place
        per_image = sums / of_text.sum(dim=1, keepdim=True).clamp(min=1) - math.log(num_tokens)
        visible = tokens.new_full((*image_mask.shape, len(text)), -torch.inf)
        visible = visible.index_put(images, per_image.T)  # (B, K, B), studies first
        num_images = image_mask.sum(dim=1).to(tokens.device)
        similarity = (visible.logsumexp(dim=1) - num_images[:, None].float().log()).T
        assert isinstance(self.config, AdaptiveSampling)  # no other has queries and keys
        return similarity / self.config.grounding_temperature

    def _queries(self, text: Tensor) -> Tensor:
        """Scaled queries of text tokens: (..., D) to (..., D)."""
        queries: Tensor = self.query(text) / text.shape[-1] ** 0.5
        return queries

    def forward(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
        feature_scores: Tensor | None = None,
    ) -> Selection:
        """Pick the images of each text row.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K) bool, True for real images; at least one per study.
            study_index: (N,) int64, the study of each text row.
            text: (N, L, D) embedded text: with the answer in training, without it otherwise.
            text_mask: (N, L) bool.
            feature_scores: (B, K), where they were computed before; else they are computed here.

        Raises:
            ValueError: a study has no image, or `random` has no scores while evaluating.
        """
        if not bool(image_mask.any(dim=1).all()):
            raise ValueError("a study has 0 images to sample from (K = 0); drop it at ingest")
        most = int(image_mask.sum(dim=1)[study_index].max())
        return self.select(
            tokens,
            image_mask,
            study_index,
            text,
            text_mask,
            feature_scores,
            num_slots=images_kept(self.config, most),
        )

    def select(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
        feature_scores: Tensor | None = None,
        *,
        num_slots: int,
    ) -> Selection:
        """Pick `num_slots` (M) images of each text row, as `forward` does.

        No value decides a shape here, so that this part also runs on tensors without values.
        """
        row_mask = gather_studies(image_mask, study_index)
        if self.training and isinstance(self.config, RandomSampling):
            feature = torch.rand(row_mask.shape).to(row_mask.device)  # anew for each row
        else:
            if feature_scores is None and isinstance(self.config, RandomSampling):
                raise ValueError(
                    "sampling 'random' has no feature_scores to pick by while evaluating; draw "
                    "them by study with Sampler.feature_scores(tokens, study_keys)"
                )
            if feature_scores is None:
                feature_scores = self.feature_scores(tokens)
            feature = gather_studies(feature_scores, study_index)
        scores, distillation = self._scores(
            feature, tokens, image_mask, study_index, text, text_mask
        )
        slots, indices = pick(scores, row_mask, num_slots)
        soft = scores.masked_fill(~row_mask, -torch.inf).softmax(dim=-1)
        if (
            self.training
            and isinstance(self.config, AdaptiveSampling)
            and self.config.training_rule == "weighted"
        ):
            slots = soft[:, None]
            indices = indices[:, :1]
        row_tokens = gather_studies(tokens, study_index)
        picked = torch.einsum("nmk,nkpd->nmpd", slots.to(row_tokens.dtype), row_tokens)
        mask = (indices >= 0).repeat_interleave(tokens.shape[2], dim=1)
        return Selection(
            tokens=picked.flatten(1, 2),
            mask=mask,
            probabilities=soft,
            indices=indices,
            distillation_loss=distillation,
        )

    def _scores(
        self,
        feature: Tensor,
        tokens: Tensor,
        image_mask: Tensor,
        study_index: Tensor,
        text: Tensor,
        text_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Scores (N, K) to pick by, and the distillation loss (); `feature` is (N, K)."""
        zero = tokens.new_zeros(())
        row_mask = gather_studies(image_mask, study_index)
        match self.config:
            case FirstSampling() | KeepAllSampling():
                order = torch.arange(image_mask.shape[1], device=tokens.device)
                return -order.float().expand(row_mask.shape), zero
            case RandomSampling():
                return feature, zero
            case AdaptiveSampling() as config:
                rule = "balanced" if self.training else config.inference_score
                log_feature = _log_softmax(feature, row_mask)
                if rule == "feature":
                    return log_feature, zero
                attention = self.attention_scores(tokens, image_mask, study_index, text, text_mask)
                log_attention = _log_softmax(attention, row_mask)
                if rule == "attention":
                    return log_attention, zero
                scores = config.balance * log_attention + (1 - config.balance) * log_feature
                loss = distillation_loss(attention, feature, row_mask, config.temperature)
                return scores, loss


def _draw(key: str, num_images: int) -> list[float]:
    """Numbers in [0, 1) that follow from a study's key; those of fewer images begin alike."""
    generator = random.Random(key)  # noqa: S311 - no secret
    return [generator.random() for _ in range(num_images)]


def _places(mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each True of a mask (R, C), as indices on a device."""
    rows, columns = mask.nonzero(as_tuple=True)
    return rows.to(device), columns.to(device)


def distillation_loss(
    teacher: Tensor, student: Tensor, image_mask: Tensor, temperature: float
) -> Tensor:
    """`KL(stopgrad softmax(teacher / T) || softmax(student / T))`, mean over rows.

    Args:
        teacher: (N, K) scores that get no gradient.
        student: (N, K) scores that learn.
        image_mask: (N, K) bool; padding takes no part.
        temperature: T, softens both sides.
    """
    target = _log_softmax(teacher.detach() / temperature, image_mask)
    learned = _log_softmax(student / temperature, image_mask)
    terms = (target.exp() * (target - learned)).masked_fill(~image_mask, 0.0)
    return terms.sum(dim=1).mean()


def grounding_loss(similarity: Tensor) -> Tensor:
    """Symmetric InfoNCE over (B, B) similarities of texts (rows) and studies (columns)."""
    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


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


def _log_softmax(scores: Tensor, image_mask: Tensor) -> Tensor:
    """Masked log-softmax whose padding is a large negative number, so that products stay finite."""
    return scores.masked_fill(~image_mask, -1e9).log_softmax(dim=-1)
