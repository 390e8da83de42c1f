"""LLaVA-Ultra without its towers: fusion, sampler and language model over cached features.

The forward pass, with axes B studies, K images, P tokens, C1 / C2 channels, N text rows, M kept
images, L text tokens, D width:

1. `fuse`: (B, K, P, C1) and (B, K, P, C2) -> Hv (B, K, P, D);
2. `sampler`: Hv and the embedded text -> the M best images of each row, (N, M*P, D);
3. `read`: the text with the image tokens at their place in it -> (N, M*P + L, D);
4. the decoder predicts the answer; loss = cross-entropy + distillation + grounding, weighted.

Every answer weighs the same, however long it is. A report has some forty tokens, of which most
repeat from study to study, and the answer to a closed question has two that depend on the image:
a mean over all tokens would drown them.

It is a plain module: parts are loaded by their own loaders and composed here, because transformers
re-initialises what it does not find when a composite goes through `from_pretrained`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.batch import TextBatch, VisualBatch
from llava_ultra.config import AdaptiveSampling, ModelConfig
from llava_ultra.connector.fusion import FusionSizes, build_fusion, check_features, with_mean_token
from llava_ultra.connector.sampling import Sampler, Selection, grounding_loss
from llava_ultra.language.chat import IGNORED

LENGTH_GROUPS = 2
"""Groups of rows by length in one pass of the decoder. On a CPU core a step of the tiny road takes
0.43, 0.36 and 0.40 s with 1, 2 and 4 of them: less padding against more and smaller products."""

CONNECTOR_PARTS = ("fusion", "sampler")
"""The parts trained in both stages; LoRA joins in the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOutput:
    """What a training step needs, and what it reports."""

    loss: Tensor
    """(): what is minimised."""
    answer_loss: Tensor
    """(): mean over answers of the mean cross-entropy of their tokens."""
    distillation_loss: Tensor
    """(): mean KL between attention and feature scores."""
    grounding_loss: Tensor
    """(): InfoNCE of the texts and studies of one worker's share of the step."""
    selection: Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the decoder is given to read."""

    selection: Selection
    embeds: Tensor
    """(N, S, D): the text with the image tokens at their place; S = M*P + L."""
    mask: Tensor
    """(N, S) bool."""


class LlavaUltra(nn.Module):
    """Fusion, sampler and decoder; see the module's docstring."""

    embedding_scale: Tensor

    def __init__(self, config: ModelConfig, language_model: nn.Module) -> None:
        super().__init__()
        self.config = config
        width: int = language_model.config.hidden_size  # type: ignore[union-attr, assignment]
        self.feature_sizes = FusionSizes(
            clip_channels=config.clip.num_channels,
            sam_channels=config.sam_channels,
            num_tokens=config.num_tokens,
            hidden=config.projector_hidden,
            width=width,
            clip_layers=len(config.clip.read_layers),
            sam_layers=max(1, len(config.sam.read_layers)),
        )
        self.fusion = build_fusion(config.fusion, self.feature_sizes)
        self.sampler = Sampler(config.sampling, width=width)
        self.language_model = language_model
        # Root mean square of the decoder's token embeddings: image tokens are scaled by it, so that
        # the frozen decoder meets vectors of the size that it knows.
        weight: Tensor = language_model.get_input_embeddings().weight  # type: ignore[operator]
        scale = weight.detach().float().pow(2).mean().sqrt()
        self.register_buffer("embedding_scale", scale, persistent=False)

    def fuse(self, clip: Tensor, sam: Tensor) -> Tensor:
        """Fused tokens Hv: (..., P, C1) and (..., G, C2), G patches, to (..., P, D).

        Raises:
            ValueError: the features are of other shapes than the configuration's.
        """
        check_features(clip, sam, self.feature_sizes)
        fused: Tensor = self.fusion(clip, with_mean_token(clip, sam))
        return fused

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids: (N, L) to (N, L, D)."""
        embedded: Tensor = self.language_model.get_input_embeddings()(ids)  # type: ignore[operator]
        return embedded

    def read(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        text: TextBatch,
        feature_scores: Tensor | None = None,
    ) -> Reading:
        """Pick each row's images and put their tokens where the text has its place for them.

        In training the attention score sees the answer (the teacher may); otherwise it sees the
        prompt alone, so that a candidate answer never decides which image it is judged by.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K) bool.
            text: N rows.
            feature_scores: (B, K), where they were computed before.

        Raises:
            ValueError: images and text leave no room in the context.
        """
        embedded = self.embed(text.ids)
        scored = text.mask if self.training else text.mask & (text.labels == IGNORED)
        selection = self.sampler(
            tokens, image_mask, text.study_index, embedded, scored, feature_scores
        )
        images = selection.tokens * self.embedding_scale
        at = text.images_at
        mask = torch.cat([text.mask[:, :at], selection.mask, text.mask[:, at:]], dim=1)
        row = int(mask.sum(dim=1).argmax())  # padding takes no position
        image_length, length = int(selection.mask[row].sum()), int(mask[row].sum())
        if length >= self.config.language.context_length:
            raise ValueError(
                f"images ({image_length} tokens) and text ({length - image_length}) do not fit the "
                f"context of {self.config.language.context_length} tokens; shorten the text, keep "
                "fewer images or raise language.context_length"
            )
        return Reading(
            selection=selection,
            embeds=torch.cat([embedded[:, :at], images, embedded[:, at:]], dim=1),
            mask=mask,
        )

    def grounding(self, tokens: Tensor, image_mask: Tensor, text: TextBatch) -> Tensor:
        """Grounding loss () of each study's longest text, its answer included.

        Compared are the studies of this batch: one worker's share of a step, not all of it.
        """
        lengths = text.mask.sum(dim=1)
        asked = torch.unique(text.study_index)  # a study may have no question in this batch
        rows = [
            max((text.study_index == study).nonzero()[:, 0].tolist(), key=lambda r: int(lengths[r]))
            for study in asked
        ]
        similarity = self.sampler.grounding_similarity(
            tokens[asked], image_mask[asked], self.embed(text.ids[rows]), text.mask[rows]
        )
        return grounding_loss(similarity)

    def answer_log_probs(self, reading: Reading, text: TextBatch) -> Tensor:
        """Log-probability of each answer token: (N, L - 1), 0 at tokens that are no answer.

        Rows of like length go through the decoder together, so that a short question is not padded
        to the length of a report: about half of the decoder's work in the tiny road.
        """
        num_image_tokens = reading.selection.mask.shape[1]
        lengths = text.mask.sum(dim=1)
        result = reading.embeds.new_zeros(len(lengths), text.labels.shape[1] - 1)
        for rows in lengths.argsort().chunk(LENGTH_GROUPS):
            length = int(lengths[rows].max())
            end = num_image_tokens + length
            mask = reading.mask[rows, :end]
            logits = self.language_model(
                inputs_embeds=reading.embeds[rows, :end],
                attention_mask=mask.long(),
                position_ids=positions(mask),
            ).logits
            predicted = logits[:, num_image_tokens:-1]  # the token at i is predicted at i - 1
            losses = F.cross_entropy(
                predicted.flatten(0, 1).float(),
                text.labels[rows, 1:length].flatten(),
                ignore_index=IGNORED,
                reduction="none",
            ).view(len(rows), length - 1)
            result = result.index_put(
                (rows[:, None], torch.arange(length - 1, device=rows.device)[None]), -losses
            )
        return result

    def forward(self, visual: VisualBatch, text: TextBatch) -> TrainOutput:
        """One training forward pass; see the module's docstring for the steps."""
        tokens = self.fuse(visual.clip, visual.sam)
        reading = self.read(tokens, visual.image_mask, text)
        num_tokens = (text.labels != IGNORED).sum(dim=1).clamp(min=1)
        answer_loss = -(self.answer_log_probs(reading, text).sum(dim=1) / num_tokens).mean()
        selection = reading.selection
        loss, grounding = answer_loss, answer_loss.new_zeros(())
        sampling = self.config.sampling
        if isinstance(sampling, AdaptiveSampling):
            loss = loss + sampling.distillation_weight * selection.distillation_loss
            if sampling.grounding_weight:
                grounding = self.grounding(tokens, visual.image_mask, text)
                loss = loss + sampling.grounding_weight * grounding
        return TrainOutput(
            loss=loss,
            answer_loss=answer_loss.detach(),
            distillation_loss=selection.distillation_loss.detach(),
            grounding_loss=grounding.detach(),
            selection=selection,
        )


def positions(mask: Tensor) -> Tensor:
    """Position ids (N, S) that count real tokens only, wherever the padding lies."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
