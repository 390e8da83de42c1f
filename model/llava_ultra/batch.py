"""From studies to padded batches.

Axes: B studies, K images (the most of any study in the batch), P tokens, C1 / C2 channels, N text
rows (one question each, of any study in the batch), L text tokens.

A study's images are encoded once however many questions it has: text rows point to their study by
`study_index`. Padding is always on the right here; generation turns it to the left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava_ultra.language.chat import IGNORED, as_messages, encode_answer, encode_chat
from llava_ultra.recognition.pairs import Pairs
from llava_ultra.towers.mix.mix_config import OWN_TOWERS


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFeatures:
    """Cached tower outputs of one study's K images."""

    clip: np.ndarray
    """(K, P, C1), float16 or float32."""
    sam: np.ndarray
    """(K, P, C2), float16 or float32."""
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By further tower, (K, T, C) likewise."""

    @property
    def towers(self) -> dict[str, np.ndarray]:
        """Of all towers, by name."""
        return {"clip": self.clip, "sam": self.sam, **self.more}

    @classmethod
    def of_towers(cls, features: Mapping[str, np.ndarray]) -> "StudyFeatures":
        """Put the features of all towers, by name, together."""
        more = {name: each for name, each in features.items() if name not in OWN_TOWERS}
        return cls(clip=features["clip"], sam=features["sam"], more=more)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualBatch:
    """Features of B studies, padded to K images."""

    clip: Tensor
    """(B, K, P, C1), float32."""
    sam: Tensor
    """(B, K, P, C2), float32."""
    image_mask: Tensor
    """(B, K) bool, True for real images."""
    more: Mapping[str, Tensor] = field(default_factory=dict)
    """By further tower, (B, K, T, C), float32."""

    def to(self, device: torch.device | str) -> "VisualBatch":
        """Move all tensors."""
        return VisualBatch(
            clip=self.clip.to(device),
            sam=self.sam.to(device),
            image_mask=self.image_mask.to(device),
            more={name: each.to(device) for name, each in self.more.items()},
        )

    def with_noise(self, deviation: float, seeds: Sequence[int]) -> "VisualBatch":
        """Add Gaussian noise of this standard deviation to the features of every image.

        Args:
            deviation: of the noise.
            seeds: one a study, so that its noise is the same whatever batch it is in.
        """
        clip, sam = self.clip.clone(), self.sam.clone()
        more = {name: each.clone() for name, each in self.more.items()}
        for row, seed in enumerate(seeds):
            count = int(self.image_mask[row].sum())
            generator = torch.Generator().manual_seed(seed)
            for features in (clip, sam, *more.values()):
                own = features[row, :count]
                own += deviation * torch.randn(own.shape, generator=generator)
        return VisualBatch(clip=clip, sam=sam, image_mask=self.image_mask, more=more)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """N questions with their answers, right-padded."""

    ids: Tensor
    """(N, L) int64."""
    labels: Tensor
    """(N, L) int64: the answer's ids, `IGNORED` elsewhere."""
    mask: Tensor
    """(N, L) bool."""
    study_index: Tensor
    """(N,) int64."""
    images_at: int = 1
    """Text tokens in front of the images, the same in every row."""

    def to(self, device: torch.device | str) -> "TextBatch":
        """Move all tensors."""
        return TextBatch(
            ids=self.ids.to(device),
            labels=self.labels.to(device),
            mask=self.mask.to(device),
            study_index=self.study_index.to(device),
            images_at=self.images_at,
        )

    def select(self, rows: Sequence[int]) -> "TextBatch":
        """Some rows, in the order given, padded to the longest of them."""
        index = torch.tensor(rows, device=self.ids.device)
        mask = self.mask[index]
        length = int(mask.sum(dim=1).max())
        return TextBatch(
            ids=self.ids[index, :length],
            labels=self.labels[index, :length],
            mask=mask[:, :length],
            study_index=self.study_index[index],
            images_at=self.images_at,
        )

    def num_answer_tokens(self) -> Tensor:
        """Tokens of each row's answer: (N,) int64."""
        return (self.labels != IGNORED).sum(dim=1)

    def without_answers(self) -> "TextBatch":
        """The prompts alone, as they stand before the assistant speaks."""
        mask = self.mask & (self.labels == IGNORED)
        length = int(mask.sum(dim=1).max())
        return TextBatch(
            ids=self.ids[:, :length],
            labels=torch.full_like(self.labels[:, :length], IGNORED),
            mask=mask[:, :length],
            study_index=self.study_index,
            images_at=self.images_at,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One worker's share of a training step, or a part of it."""

    visual: VisualBatch
    text: TextBatch
    pairs: Pairs | None = None
    """What recognition learns from, where it is trained for."""

    def of_studies(self, studies: Sequence[int]) -> "Batch":
        """Some studies with all their questions, padded to the longest of them."""
        index = torch.tensor(studies, device=self.visual.image_mask.device)
        image_mask = self.visual.image_mask[index]
        most = int(image_mask.sum(dim=1).max())
        place = {study: number for number, study in enumerate(studies)}
        asked = self.text.study_index.tolist()
        text = self.text.select([row for row, study in enumerate(asked) if study in place])
        renumbered = [place[study] for study in text.study_index.tolist()]
        return Batch(
            visual=VisualBatch(
                clip=self.visual.clip[index, :most],
                sam=self.visual.sam[index, :most],
                image_mask=image_mask[:, :most],
                more={name: each[index, :most] for name, each in self.visual.more.items()},
            ),
            text=replace(text, study_index=torch.tensor(renumbered, device=text.ids.device)),
            pairs=None if self.pairs is None else self.pairs.of_studies(studies),
        )


def collate_features(studies: Sequence[StudyFeatures]) -> VisualBatch:
    """Pad the features of several studies to the largest K.

    Raises:
        ValueError: there is no study, one has no image, its shapes differ from the others', or its
            features hold NaN or infinity.
    """
    if not studies:
        raise ValueError("a batch of 0 studies has no features; give at least one")
    most = max(len(study.clip) for study in studies)
    for index, study in enumerate(studies):
        if len(study.clip) == 0:
            raise ValueError(f"study {index} of the batch has 0 images; drop it at ingest")
        if len(study.clip) != len(study.sam):
            raise ValueError(
                f"study {index} of the batch has {len(study.clip)} CLIP and {len(study.sam)} SAM "
                "features; embed the dataset again"
            )
        for name, features in study.more.items():
            if len(features) != len(study.clip):
                raise ValueError(
                    f"study {index} of the batch has {len(study.clip)} CLIP and {len(features)} "
                    f"{name} features; embed the dataset again"
                )

    def pad(tower: str, arrays: Sequence[np.ndarray]) -> Tensor:
        shape = arrays[0].shape[1:]
        padded = np.zeros((len(arrays), most, *shape), dtype=np.float32)
        for index, (row, array) in enumerate(zip(padded, arrays, strict=True)):
            if array.shape[1:] != shape:
                raise ValueError(
                    f"study {index} of the batch has {tower} features of {array.shape[1:]} "
                    f"(tokens, channels), study 0 of {shape}; embed the dataset again"
                )
            row[: len(array)] = array
            if not np.isfinite(array).all():
                value = array[~np.isfinite(array)][0]
                raise ValueError(
                    f"study {index} of the batch has {tower} features that hold NaN or infinity "
                    f"({value}); embed the dataset again"
                )
        return torch.from_numpy(padded)

    counts = torch.tensor([len(study.clip) for study in studies])
    return VisualBatch(
        clip=pad("CLIP", [study.clip for study in studies]),
        sam=pad("SAM", [study.sam for study in studies]),
        image_mask=torch.arange(most) < counts[:, None],
        more={name: pad(name, [study.more[name] for study in studies]) for name in studies[0].more},
    )


def collate_texts(
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[tuple[int, str | Sequence[str], str]],
    *,
    max_tokens: int,
) -> TextBatch:
    """Encode and pad (study index, question, answer) rows.

    Args:
        tokenizer: the language model's.
        rows: a question is a text, or a conversation that ends in one: texts by user and assistant
            in turn. Of a conversation the last answer alone is learned.
        max_tokens: most tokens of a row.

    Raises:
        ValueError: there is no row, or a question with its answer is longer than `max_tokens`.
    """
    if not rows:
        raise ValueError("a batch of 0 questions has no text; give at least one")
    encoded = []
    images_at = 1
    for index, question, answer in rows:
        # what the chat form puts in front of a row's first question is the same in every row
        prompt, images_at = encode_chat(tokenizer, as_messages(question))
        reply = encode_answer(tokenizer, answer)
        if len(prompt) + len(reply) > max_tokens:
            raise ValueError(
                f"a question with its answer is {len(prompt) + len(reply)} tokens long, the "
                f"context leaves {max_tokens}; shorten it or raise language.context_length"
            )
        encoded.append((index, prompt, reply))
    length = max(len(prompt) + len(reply) for _, prompt, reply in encoded)
    ids = torch.full((len(encoded), length), tokenizer.pad_token_id, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, (_, prompt, reply) in enumerate(encoded):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor([*prompt, *reply])
        labels[row, len(prompt) : end] = torch.tensor(reply)
        mask[row, :end] = True
    study_index = torch.tensor([index for index, _, _ in encoded])
    return TextBatch(
        ids=ids, labels=labels, mask=mask, study_index=study_index, images_at=images_at
    )
