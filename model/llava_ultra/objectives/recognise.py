"""The recognition objective: pictures, reports and class descriptions in one space.

DFAT of LLaVA-RadZ (arXiv 2503.07487) aligns what the decoder's features say of a study's images
with what they say of its report; DKAM holds both against the descriptions of a bank's classes:
`L = c DFAT + (1 - c) DKAM`, DFAT alone without a bank. The losses stand in
`llava_ultra.recognition.losses`; docs/methods.md says what of it the paper states and what is our
choice.

Both compare all studies of a step, on all workers. What a part of a step brings are its vectors;
those of the bank, and the temperature, every part and worker brings alike, and the mean of them
counts, so that their gradient is the sum of what all of them are asked.

Axes: B studies of a part, D width, R class texts, C classes.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.objectives.objective import StepObjective
from llava_ultra.recognition.names import AnchorKind, HeadKind, Pooling, Readout, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.states import Fused, StepPart
    from llava_ultra.recognition.head import HeadShape
    from llava_ultra.recognition.losses import ClassTexts

_SIDES = 4
"""Vectors of the studies in front of the others: both kinds, of images and of reports."""


class RecognitionObjective(StepObjective):
    """DFAT, and DKAM where there is a bank."""

    needs_whole_weights: ClassVar[bool] = True

    type: Literal["recognition"] = "recognition"
    bank: str = ""
    """Bank of classes for DKAM: a packaged one by name, or a TOML or JSONL file; empty: DFAT
    alone."""
    contrast: float = Field(default=0.5, ge=0, le=1)
    """Share of DFAT's loss where there is a bank (the paper's lambda)."""
    variant: Variant = "cross"
    global_share: float = Field(default=0.5, ge=0, le=1)
    """Of the plain variant: what the global vectors' loss counts against the local ones'."""
    image_tokens: int = Field(default=4, ge=1)
    """Modality tokens behind the images (n_i)."""
    text_tokens: int = Field(default=8, ge=1)
    """Modality tokens behind a text (n_t)."""
    layer: int = -2
    """Layer whose states are read: from 1 on, or from the last one, -1, back."""
    head: HeadKind = "mlp"
    """What is put on the states. The authors' reported scripts use none, over a 7B decoder."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides similarities."""
    learn_temperature: bool = False
    """Whether the temperature is learned, from `temperature` on."""
    anchors: AnchorKind = "embeddings"
    pooling: Pooling = "mean"
    """How a class's descriptions are pooled (GMAT)."""
    images: Literal["sampled", "all"] = "sampled"
    """Which images of a study are read: those that the sampler picks without a text, or all."""
    readout: Readout = "cross"
    """What answers: `global` as the authors do, `cross` as the cross variant is trained."""
    instruction: str = Field(default="请识别图像中的异常。", min_length=1)
    """What is said to the images."""

    @property
    def shape(self) -> "HeadShape":
        """What the model needs for it."""
        from llava_ultra.recognition.head import HeadShape

        return HeadShape(
            image_tokens=self.image_tokens,
            text_tokens=self.text_tokens,
            kind=self.head,
            temperature=self.temperature,
            learns_temperature=self.learn_temperature,
            knows_classes=bool(self.bank) and self.anchors == "embeddings",
            weighs_texts=bool(self.bank) and self.pooling == "attention",
        )

    def part(self, batch: "Batch", fused: "Fused") -> "StepPart":
        """Vectors of a part's studies, and of the bank."""
        import torch

        from llava_ultra.objectives.states import StepPart

        pairs, model = batch.pairs, fused.recogniser
        if pairs is None or model is None or model.recognition is None:
            raise ValueError(
                "objective 'recognition' has no reports in this batch; give pairs, or leave it out"
            )
        images = model.read_images(
            fused.tokens, batch.visual.image_mask, pairs.prompt, pairs.images_at
        )
        keys = pairs.keys.tolist()
        first = {key: keys.index(key) for key in keys}  # equal reports are read once
        texts = model.read_texts(pairs.reports.select(list(first.values())))
        places = {key: place for place, key in enumerate(first)}
        row = torch.tensor([places[key] for key in keys], device=texts.globals_.device)
        vectors = [
            images.globals_,
            images.locals_,
            texts.globals_[row],
            texts.locals_[row],
            model.recognition.temperature[None],
        ]
        counts = [pairs.keys]
        if pairs.bank is not None and pairs.labels is not None:
            found = model.class_vectors(pairs.bank.texts, self.anchors)
            vectors.append(found)
            if (weights := model.recognition.text_weights(found)) is not None:
                vectors.append(weights)
            counts += [pairs.labels, pairs.bank.class_of]
        return StepPart(vectors=tuple(vectors), counts=tuple(counts))

    def compare(self, parts: "Sequence[StepPart]") -> "Tensor":
        """The loss () of all studies of the step; collective."""
        import torch

        from llava_ultra.objectives.ranks import gather_rows
        from llava_ultra.recognition.losses import Side, dfat_loss, dkam_loss, same_rows

        def rows(number: int) -> "Tensor":
            return gather_rows(torch.cat([part.vectors[number] for part in parts]))

        def shared(number: int) -> "Tensor":
            own = torch.stack([part.vectors[number] for part in parts]).mean(dim=0)
            return gather_rows(own[None]).mean(dim=0)

        def numbers(number: int) -> "Tensor":  # below 2**53, which float64 holds exactly
            return gather_rows(torch.cat([part.counts[number] for part in parts]).double()).long()

        images = Side(globals_=rows(0), locals_=rows(1))
        texts = Side(globals_=rows(2), locals_=rows(3))
        temperature = shared(_SIDES)[0]
        has_bank = len(parts[0].counts) > 1
        labels = numbers(1) if has_bank else None
        contrast = dfat_loss(
            images,
            texts,
            temperature=temperature,
            same=same_rows(numbers(0), labels),
            variant=self.variant,
            global_share=self.global_share,
        )
        if labels is None:
            return contrast
        anchors = self._anchors(parts, shared)
        known = [
            dkam_loss(each, anchors, labels, temperature=temperature, pooling=self.pooling)
            for each in (texts.globals_, images.globals_)
        ]
        return self.contrast * contrast + (1 - self.contrast) * (known[0] + known[1]) / 2

    def _anchors(
        self, parts: "Sequence[StepPart]", shared: "Callable[[int], Tensor]"
    ) -> "ClassTexts":
        from llava_ultra.recognition.losses import ClassTexts

        vectors = shared(_SIDES + 1)
        weighted = len(parts[0].vectors) > _SIDES + 2
        return ClassTexts(
            vectors=vectors,
            class_of=parts[0].counts[2].to(vectors.device),
            weights=shared(_SIDES + 2) if weighted else None,
        )
