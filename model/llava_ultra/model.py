"""LLaVA-Ultra without its towers: fusion, sampler and language model over cached features.

The forward pass, with axes B studies, K images, P tokens, C1 / C2 channels, N text rows, M kept
images, L text tokens, D width:

1. `fuse`: (B, K, P, C1) and (B, K, P, C2) -> Hv (B, K, P, D);
2. `sampler`: Hv and the embedded text -> the M best images of each row, (N, M*P, D);
3. `read`: the text with the image tokens at their place in it -> (N, M*P + L, D);
4. the decoder predicts the answer, where an objective asks for it;
5. each objective of the configuration computes its loss (`llava_ultra.objectives`), and the losses
   are added up by their weights, in the order of the list.

Masks, labels and indices may lie on the CPU while the features are elsewhere: all that decides a
shape is read from them, so that the same forward pass runs on tensors without values, which is how
`llava_ultra.cost.trace` counts a step.

It is a plain module: parts are loaded by their own loaders and composed here, because transformers
re-initialises what it does not find when a composite goes through `from_pretrained`.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.batch import Batch, TextBatch, VisualBatch
from llava_ultra.config import ModelConfig
from llava_ultra.connector.fusion import FusionSizes, build_fusion, check_features, with_mean_token
from llava_ultra.connector.pick import Sampler, Selection
from llava_ultra.connector.scores import gather_studies
from llava_ultra.language.chat import IGNORED
from llava_ultra.language.logits import logits_at
from llava_ultra.objectives.states import States
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.parameters.products import (
    DTYPES,
    fix_products,
    round_frozen,
    round_products,
)

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
    losses: dict[str, Tensor]
    """(): each objective's own loss as `<type>_loss`, before its weight and without gradient."""
    selection: Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the decoder is given to read."""

    selection: Selection
    embeds: Tensor
    """(N, S, D): the text with the image tokens at their place; S = M*P + L."""
    mask: Tensor
    """(N, S) bool."""


def fusion_sizes(config: ModelConfig, width: int) -> FusionSizes:
    """The shapes that a model's fusion is built for, where its decoder is `width` wide."""
    return FusionSizes(
        clip_channels=config.clip.num_channels,
        sam_channels=config.sam_channels,
        num_tokens=config.num_tokens,
        hidden=config.projector_hidden,
        width=width,
        clip_layers=len(config.clip.read_layers),
        sam_layers=max(1, len(config.sam.read_layers)),
    )


class LlavaUltra(nn.Module):
    """Fusion, sampler and decoder; see the module's docstring."""

    embedding_scale: Tensor

    def __init__(
        self, config: ModelConfig, language_model: nn.Module, precision: Precision = "float32"
    ) -> None:
        """Build fusion and sampler around a decoder.

        Args:
            config: of all parts.
            language_model: the decoder, with its adapters; its own weights are rounded in place.
            precision: what fusion and decoder multiply in (`llava_ultra.parameters.products`).
        """
        super().__init__()
        self.config = config
        self.precision = precision
        width: int = language_model.config.hidden_size  # type: ignore[union-attr, assignment]
        self.feature_sizes = fusion_sizes(config, width)
        self.fusion = build_fusion(config.fusion, self.feature_sizes)
        self.sampler = Sampler(config.sampling, width=width)
        self.language_model = language_model
        if precision != "float32":
            round_products(self.fusion, DTYPES[precision])
            round_frozen(language_model, DTYPES[precision])
        # Root mean square of the decoder's token embeddings: image tokens are scaled by it, so that
        # the frozen decoder meets vectors of the size that it knows.
        weight: Tensor = language_model.get_input_embeddings().weight  # type: ignore[operator]
        scale = weight.detach().float().pow(2).mean().sqrt()
        self.register_buffer("embedding_scale", scale, persistent=False)

    def fix(self) -> None:
        """Fix the model for answering: evaluation mode, its products' factors rounded for good."""
        self.eval()
        fix_products(self)

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
        table: nn.Embedding = self.language_model.get_input_embeddings()  # type: ignore[operator]
        embedded: Tensor = table(ids.to(table.weight.device))
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
        images = (selection.tokens * self.embedding_scale).to(embedded.dtype)
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

    def answer_log_probs(self, reading: Reading, text: TextBatch) -> Tensor:
        """Log-probability of each answer token: (N, L - 1), 0 at tokens that are no answer.

        Rows of like length go through the decoder together, so that a short question is not padded
        to the length of a report: about half of the decoder's work in the tiny road. Logits are
        computed in front of answer tokens alone.
        """
        device = reading.embeds.device
        num_image_tokens = reading.selection.mask.shape[1]
        lengths = text.mask.sum(dim=1)
        result = torch.zeros(len(lengths), text.labels.shape[1] - 1, device=device)
        for rows in lengths.argsort().chunk(LENGTH_GROUPS):
            length = int(lengths[rows].max())
            end = num_image_tokens + length
            labels = text.labels[rows, 1:length]  # the token at i is predicted at i - 1
            at, places = (labels != IGNORED).nonzero(as_tuple=True)
            with logits_at(
                self.language_model, at.to(device), (places + num_image_tokens).to(device)
            ):
                logits = self.language_model(
                    inputs_embeds=reading.embeds[rows.to(device), :end],
                    **_padding(reading.mask[rows, :end], device),
                ).logits
            losses = F.cross_entropy(
                logits.float(), labels[at, places].to(device), reduction="none"
            )
            result = result.index_put((rows[at].to(device), places.to(device)), -losses)
        return result

    def forward(self, visual: VisualBatch, text: TextBatch) -> TrainOutput:
        """One forward pass in training mode; see the module's docstring for the steps."""
        objectives = self.config.active_objectives
        tokens = self.fuse(visual.clip, visual.sam)
        reading = self.read(tokens, visual.image_mask, text)
        needs_answers = any("answers" in objective.needs for objective in objectives)
        row_mask = gather_studies(visual.image_mask, text.study_index).to(tokens.device)
        states = States(
            tokens=tokens,
            row_mask=row_mask,
            selection=reading.selection,
            sampler=self.sampler,
            embed=self.embed,
            answer_log_probs=self.answer_log_probs(reading, text) if needs_answers else None,
        )
        batch = Batch(visual=visual, text=text)
        losses = {objective.type: objective.loss(batch, states) for objective in objectives}
        weighted = [objective.weight * losses[objective.type] for objective in objectives]
        return TrainOutput(
            loss=functools.reduce(torch.add, weighted),
            losses={f"{name}_loss": loss.detach() for name, loss in losses.items()},
            selection=reading.selection,
        )


def _padding(mask: Tensor, device: torch.device) -> dict[str, Tensor]:
    """How the decoder is told of the padding in `mask` (N, S): not at all where there is none."""
    if bool(mask.all()):
        return {}
    return {
        "attention_mask": mask.long().to(device),
        "position_ids": positions(mask).to(device),
    }


def positions(mask: Tensor) -> Tensor:
    """Position ids (N, S) that count real tokens only, wherever the padding lies."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
