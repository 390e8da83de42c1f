"""LLaVA-Ultra without its towers: fusion, sampler and language model over cached features.

The forward pass, with axes B studies, K images, P tokens, C1 / C2 channels, N text rows, M kept
images, L text tokens, D width:

1. `fuse`: (B, K, P, C1) and (B, K, P, C2) -> Hv (B, K, P, D);
2. `sampler`: Hv and the embedded text -> the M best images of each row; rows of a study that picked
   the same share a reading, (G, M*P, D);
3. `read`: the texts, and the images that stand in them;
4. the decoder reads each reading once, the texts as its branches, and predicts the answers
   (`llava_ultra.reading`), where an objective asks for it;
5. each objective of the configuration computes its loss (`llava_ultra.objectives`), and the losses
   are added up by their weights, in the order of the list.

Masks, labels and indices may lie on the CPU while the features are elsewhere: all that decides a
shape is read from them, so that the same forward pass runs on tensors without values, which is how
`llava_ultra.cost.trace` counts a step.

It is a plain module: parts are loaded by their own loaders and composed here, because transformers
re-initialises what it does not find when a composite goes through `from_pretrained`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from llava_ultra.batch import Batch, TextBatch, VisualBatch
from llava_ultra.config import ModelConfig
from llava_ultra.connector.fusion import NO_MORE, build_fusion, fuse_towers, fusion_sizes
from llava_ultra.connector.pick import Sampler, Selection
from llava_ultra.connector.scores import gather_studies
from llava_ultra.connector.unasked import images_unasked
from llava_ultra.language.chat import IGNORED
from llava_ultra.objectives.objective import ObjectiveHead, StepObjective, build_heads
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.objectives.states import Fused, States, StepPart
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.parameters.products import (
    DTYPES,
    fix_products,
    round_frozen,
    round_products,
)
from llava_ultra.reading.answers import answer_log_probs
from llava_ultra.reading.attention import shares_prefixes
from llava_ultra.reading.credit import Picks
from llava_ultra.reading.sequence import Reading, follows_images, pack_reading, pad_reading
from llava_ultra.recognition.decoder_states import check_layer, read_side
from llava_ultra.recognition.head import RecognitionHead
from llava_ultra.recognition.losses import Side
from llava_ultra.recognition.names import AnchorKind
from llava_ultra.recognition.pairs import Pairs, TextTokens

CONNECTOR_PARTS = ("fusion", "sampler")
"""What every model has between towers and decoder."""

OBJECTIVE_HEADS = "heads"
"""What objectives learn beside the model, and keep."""

LEARNED_PARTS = (*CONNECTOR_PARTS, "recognition", OBJECTIVE_HEADS)
"""The parts trained in all stages; LoRA joins in the second."""


@dataclass(frozen=True, kw_only=True)  # without slots: ZeRO-3 looks for tensors with `vars`
class TrainOutput:
    """What a training step needs, and what it reports."""

    loss: Tensor
    """(): what is minimised; without the losses of a whole step, where this is a part of one."""
    losses: dict[str, Tensor]
    """(): each objective's own loss as `<type>_loss`, before its weight and without gradient."""
    pulled: Tensor
    """(): of a part of a step: has the gradient that the step's losses have for it; else 0."""
    selection: Selection


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
        self.reads_rows = False
        """Whether every text is read as a padded row of its own, in one pass of the decoder. ZeRO-3
        asks for it: all workers gather a layer's weights together, each time that it is called, so
        that all have to call it as often; what texts share depends on a worker's own studies."""
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
        self.recognition: RecognitionHead | None = None
        if (recognition := config.recognition) is not None:
            check_layer(language_model, recognition.layer)
            with torch.random.fork_rng(devices=()):  # all others begin as without it
                self.recognition = RecognitionHead(recognition.shape, width=width, scale=scale)
        self.heads = build_heads(config.active_objectives, language_model, width, scale)

    def fix(self) -> None:
        """Fix the model for answering: evaluation mode, its products' factors rounded for good."""
        self.eval()
        fix_products(self)

    def fuse(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Fused tokens Hv: (..., P, C1) and (..., G, C2), G patches, to (..., P, D).

        Args:
            clip: of CLIP.
            sam: of SAM.
            more: by further tower, (..., T, C).

        Raises:
            ValueError: the features are of other shapes than the configuration's.
        """
        return fuse_towers(self.fusion, self.feature_sizes, clip, sam, more)

    def fuse_studies(self, visual: VisualBatch) -> Tensor:
        """Fused tokens of a batch's real images: (B, K, P, D), zeros at padding."""
        mask = visual.image_mask
        if bool(mask.all()):
            return self.fuse(visual.clip, visual.sam, visual.more)
        device = visual.clip.device
        places = tuple(each.to(device) for each in mask.nonzero(as_tuple=True))
        more = {name: each[places] for name, each in visual.more.items()}
        fused = self.fuse(visual.clip[places], visual.sam[places], more)
        padded = fused.new_zeros(*mask.shape, *fused.shape[1:])
        return padded.index_put(places, fused)

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
        words = self.embed(text.ids)
        scored = text.mask if self.training else text.mask & (text.labels == IGNORED)
        selection = self.sampler(
            tokens,
            image_mask,
            text.study_index,
            words,
            scored,
            feature_scores,
            share=self._packs(text),
        )
        image_lengths = selection.mask.sum(dim=1)[selection.reading]
        lengths = image_lengths + text.mask.sum(dim=1)  # padding takes no position
        row = int(lengths.argmax())
        if int(lengths[row]) >= self.config.language.context_length:
            image_length = int(image_lengths[row])
            raise ValueError(
                f"images ({image_length} tokens) and text ({int(lengths[row]) - image_length}) do "
                f"not fit the context of {self.config.language.context_length} tokens; shorten the "
                "text, keep fewer images or raise language.context_length"
            )
        return Reading(
            selection=selection,
            words=words,
            word_mask=text.mask,
            images=(selection.tokens * self.embedding_scale).to(words.dtype),
            images_at=text.images_at,
            scale=self.embedding_scale,
            picks=None
            if selection.slots is None
            else Picks(
                slots=selection.slots,
                tokens=tokens,
                study_index=text.study_index.cpu(),
                reading=selection.reading.cpu(),
            ),
        )

    def _packs(self, text: TextBatch) -> bool:
        """Whether the decoder reads texts as branches of what they share."""
        return (
            not self.reads_rows
            and shares_prefixes(self.language_model)
            and not follows_images(text)
        )

    def answer_log_probs(self, reading: Reading, text: TextBatch) -> Tensor:
        """Log-probability of each answer token: (N, L - 1), 0 at tokens that are no answer.

        A decoder that can (`shares_prefixes`) reads everything in rows without padding: the images
        of each reading once, the texts behind them as branches. Questions of a study whose sampler
        picked different images share only with those that picked the same. Any other decoder reads
        a padded row for each text; so does every decoder where an answer begins right behind the
        images. Logits are computed in front of answer tokens alone, in chunks.
        """
        sequence = (pack_reading if self._packs(text) else pad_reading)(reading, text)
        rows, places = sequence.rows, sequence.places
        device = reading.words.device
        targets = text.labels.cpu()[rows, places].to(device)
        found = answer_log_probs(self.language_model, sequence, targets)
        result = found.new_zeros(len(text.ids), text.labels.shape[1] - 1)
        return result.index_put((rows.to(device), (places - 1).to(device)), found)

    def read_images(
        self,
        tokens: Tensor,
        image_mask: Tensor,
        prompt: Sequence[int],
        images_at: int,
        study_keys: Sequence[str] = (),
    ) -> Side:
        """What recognition reads of B studies: vectors (B, D) of their images.

        Args:
            tokens: (B, K, P, D) fused tokens.
            image_mask: (B, K) bool.
            prompt: ids of what is said to the images.
            images_at: how many of them stand in front of the images.
            study_keys: what names each study, for a sampler that draws.
        """
        settings = self._recognition_settings
        images, mask = images_unasked(
            self.sampler, tokens, image_mask, study_keys, every=settings.images == "all"
        )
        words = self.embed(torch.tensor(prompt)[None]).expand(len(tokens), -1, -1)
        seen = mask.new_ones(len(tokens), len(prompt))
        images = (images * self.embedding_scale).to(words.dtype)
        return self._read_side(
            torch.cat([words[:, :images_at], images, words[:, images_at:]], dim=1),
            torch.cat([seen[:, :images_at], mask, seen[:, images_at:]], dim=1),
            "image",
        )

    def read_texts(self, texts: TextTokens) -> Side:
        """What recognition reads of R texts: vectors (R, D)."""
        return self._read_side(self.embed(texts.ids), texts.mask, "text")

    def class_vectors(self, texts: TextTokens, anchors: AnchorKind) -> Tensor:
        """Vectors (R, D) of class descriptions, as DKAM holds studies against them."""
        if anchors == "decoder":
            return self.read_texts(texts).globals_
        assert self.recognition is not None  # it has a head for them
        return self.recognition.pool_embeddings(self.embed(texts.ids), texts.mask)

    def _read_side(self, embeds: Tensor, mask: Tensor, side: str) -> Side:
        assert self.recognition is not None  # as the settings
        layer = self._recognition_settings.layer
        return read_side(
            self.recognition, self.language_model, embeds, mask, side=side, layer=layer
        )

    @property
    def _recognition_settings(self) -> RecognitionObjective:
        settings = self.config.recognition
        if settings is None:
            raise ValueError(
                "this model was not trained to recognise; train one with an objective of type "
                "'recognition' in model.objectives"
            )
        return settings

    def _adapters_learn(self) -> bool:
        named = self.language_model.named_parameters()
        return any(p.requires_grad for name, p in named if ".lora_" in name)

    def after_step(self) -> None:
        """Tell the objectives' heads that the weights have moved; collective."""
        for head in self.heads.values():
            cast("ObjectiveHead", head).after_step(self.language_model)

    @torch.no_grad()
    def step_parts(
        self, visual: VisualBatch, text: TextBatch, pairs: Pairs | None = None
    ) -> dict[str, StepPart]:
        """What a part of a step brings to each loss that compares the whole step, by its type."""
        fused = Fused(
            tokens=self.fuse_studies(visual),
            sampler=self.sampler,
            embed=self.embed,
            recogniser=self,
        )
        batch = Batch(visual=visual, text=text, pairs=pairs)
        return {each.type: each.part(batch, fused) for each in self.config.step_objectives}

    def forward(
        self,
        visual: VisualBatch,
        text: TextBatch,
        pull: Mapping[str, Sequence[Tensor]] | None = None,
        pairs: Pairs | None = None,
    ) -> TrainOutput:
        """One forward pass in training mode; see the module's docstring for the steps.

        Args:
            visual: B studies.
            text: N rows.
            pull: given for a part of a step: by an objective's type, the gradient of the step's
                loss for each vector of `step_parts` (`StepObjective.pull`).
            pairs: of the studies, where recognition is trained for.
        """
        tokens = self.fuse_studies(visual)
        reading = self.read(tokens, visual.image_mask, text)
        active = [
            each
            for each in self.config.active_objectives
            if "adapters" not in each.needs or self._adapters_learn()
        ]
        needs_answers = any("answers" in objective.needs for objective in active)
        row_mask = gather_studies(visual.image_mask, text.study_index).to(tokens.device)
        states = States(
            tokens=tokens,
            row_mask=row_mask,
            selection=reading.selection,
            sampler=self.sampler,
            embed=self.embed,
            answer_log_probs=self.answer_log_probs(reading, text) if needs_answers else None,
            recogniser=self,
        )
        batch = Batch(visual=visual, text=text, pairs=pairs)
        losses: dict[str, Tensor] = {}
        total, pulled = tokens.new_zeros(()), tokens.new_zeros(())
        for objective in active:
            if pull is not None and isinstance(objective, StepObjective):
                vectors = objective.part(batch, states).vectors
                products = zip(vectors, pull[objective.type], strict=True)
                asked = [(vector * gradient).sum() for vector, gradient in products]
                pulled = pulled + objective.weight * torch.stack(asked).sum()
                continue
            losses[objective.type] = objective.loss(batch, states)
            total = total + objective.weight * losses[objective.type]
        return TrainOutput(
            loss=total,
            losses={f"{name}_loss": loss.detach() for name, loss in losses.items()},
            pulled=pulled,
            selection=reading.selection,
        )


def kept_buffers(model: nn.Module) -> dict[str, Tensor]:
    """What no gradient moves and a training has to keep, by name: averages of objectives' heads."""
    kept = dict(model.state_dict(keep_vars=True))
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in kept and name.split(".")[0] == OBJECTIVE_HEADS
    }


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
