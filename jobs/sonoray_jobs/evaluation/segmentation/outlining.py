"""Learning, and the masks of the judged images under every prompt: one Ray task.

Every judged image is outlined for every instruction: with the words; with the words of another
instruction that means something else there, and with the state of the same words about another
patient's image, which tell whether the words, and what the model saw, matter; with a box around
the true mask and a point in its middle, as a user would give them; with no prompt; and with the
mean mask of the training images, the constant answer. What is compared has the image's own pixels.

Axes: N images, I instructions, D width of states, L mask levels, M mask values along a side.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llava_ultra.pretrain.loop import OnStep
from llava_ultra.segmentation.mask_learning import Examples, learn
from llava_ultra.segmentation.prompting import box_of, point_of
from llava_ultra.segmentation.segmenter import Prompt, Segmenter, SegmenterShape, to_image
from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.metrics.areas.mask_extent import extent_of
from sonoray.metrics.areas.mask_overlap import dice, overlap_ratio
from sonoray.study.image_table import iter_masks
from sonoray_jobs.evaluation.segmentation.masked_images import (
    NOTHING,
    MaskedImage,
    mask_planes,
    read_grids,
    targets_of,
)
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

WRONG, OTHER, MEAN = "wrong words", "words of another image", "mean mask"
"""How else images are outlined, beside the prompts by name."""
_AT_ONCE = 32
_LEVELS = np.linspace(0.05, 0.95, 19)
_HALF = 128

Planes = npt.NDArray[np.bool_]
"""(1 + L, H, W): all of a mask, and each level of it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outlining:
    """What the task needs."""

    dataset: Path
    source: FeatureSource
    shape: SegmenterShape
    train: Sequence[MaskedImage]
    judged: Sequence[MaskedImage]
    train_states: npt.NDArray[np.float32]
    """(N, I, D)."""
    judged_states: npt.NDArray[np.float32]
    """(N, I, D) of the judged images."""
    device: str


def learn_and_outline(
    task: Outlining, folder: Path, learning: OnStep, outlining: OnStep
) -> dict[str, Any]:
    """Write the segmenter into a folder.

    Args:
        task: what it needs.
        folder: where to.
        learning: progress callback of the steps.
        outlining: that of the judged images; its loss is 1 - the mean Dice of the first prompt so
            far.

    Returns:
        `rows`, one for each judged image and instruction: Dice and IoU of each way (`scores`), the
        mask of the first prompt as PNG, its size beside the true one; `losses`; `num_parameters`.

    Raises:
        DataError: no instruction means anything in a training image.
    """
    reader = FeatureReader(task.source)
    settings = task.shape.settings
    grids = read_grids(task.dataset, task.train, task.shape.mask_size, settings.levels)
    examples = Examples(
        features=lambda chosen: reader.read([task.train[at].image for at in chosen])["sam"],
        masks=grids,
        targets=targets_of(task.train, settings),
        states=task.train_states,
    )
    try:
        segmenter, losses = learn(examples, task.shape, learning, task.device)
    except ValueError as error:
        raise DataError(str(error)) from None
    segmenter.save(folder)
    judge = _Judge(task, segmenter, mean_masks(examples), reader)
    return {
        "rows": list(judge.rows(outlining)),
        "losses": losses,
        "num_parameters": sum(each.numel() for each in segmenter.parameters()),
    }


def mean_masks(examples: Examples) -> npt.NDArray[np.float32]:
    """The constant answer to each instruction, (I, M, M), above 0 inside.

    The mean of the training masks, cut at the level whose Dice with them is best.
    """
    num_images, num_instructions = examples.targets.shape
    size = examples.masks.shape[2:]
    found = []
    for instruction in range(num_instructions):
        total, truths = np.zeros(size, np.int64), []
        for image in range(num_images):
            meant = examples.meant(image, instruction)
            if (inside := meant >= _HALF).any():
                total += meant
                truths.append(inside)  # of one byte each: a tower of 1,024 pixels has many
        if not truths:
            found.append(np.full(size, -1, np.float32))
            continue
        mean = total / (255 * len(truths))
        levels = _LEVELS * mean.max()
        scores = [np.mean([dice(mean >= level, own) for own in truths]) for level in levels]
        best = levels[int(np.argmax(scores))]
        found.append(np.where(mean >= best, 1, -1).astype(np.float32))
    return np.stack(found)


@dataclass(kw_only=True, slots=True, eq=False)
class _Pair:
    """A judged image and an instruction."""

    image: int
    instruction: int
    truth: npt.NDArray[np.bool_]
    """(H, W)."""
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Dice and IoU, by how it was outlined."""
    mask: npt.NDArray[np.bool_] | None = None
    """(H, W), as the first of the prompts outlines it."""


class _Judge:
    def __init__(
        self,
        task: Outlining,
        segmenter: Segmenter,
        means: npt.NDArray[np.float32],
        reader: FeatureReader,
    ) -> None:
        self._task = task
        self._segmenter = segmenter
        self._means = torch.from_numpy(means)
        self._reader = reader
        self._settings = task.shape.settings
        self._targets = targets_of(task.judged, self._settings)
        self._others = _of_others(task.judged)

    def rows(self, post: OnStep) -> Iterator[dict[str, Any]]:
        """A row of each image and instruction."""
        places = {each.image.image_id: at for at, each in enumerate(self._task.judged)}
        masks = iter_masks(self._task.dataset, places)
        first = self._settings.prompts[0]
        scores: list[float] = []
        num_done = 0
        while batch := list(itertools.islice(masks, _AT_ONCE)):
            planes = [
                (places[image_id], mask_planes(mask, self._settings.levels))
                for image_id, mask in batch
            ]
            for row in self._judge(planes):
                if row["has_target"]:
                    scores.append(row["scores"][first][0])
                yield row
            num_done += len(batch)
            post(num_done, len(places), 1 - float(np.mean(scores or [0])))

    @torch.no_grad()
    def _judge(self, batch: Sequence[tuple[int, Planes]]) -> Iterator[dict[str, Any]]:
        images = [self._task.judged[at].image for at, _ in batch]
        read = torch.from_numpy(self._reader.read(images)["sam"]).to(self._task.device)
        features = dict(zip([at for at, _ in batch], read, strict=True))
        pairs = [
            _Pair(image=at, instruction=instruction, truth=self._truth(at, instruction, planes))
            for at, planes in batch
            for instruction in range(self._targets.shape[1])
        ]
        for way, asked, prompt in self._ways(pairs):
            if not asked:
                continue
            if prompt is None:
                logits = self._means[[each.instruction for each in asked]]
            else:
                shown = torch.stack([features[each.image] for each in asked])
                logits = self._segmenter(shown, prompt.to(self._task.device))[0].cpu()
            for each, own in zip(asked, logits, strict=True):
                height, width = each.truth.shape
                whole = to_image(own[None], self._task.shape.image_size, height, width)[0]
                found = whole.numpy() > 0
                each.scores[way] = dice(found, each.truth), overlap_ratio(found, each.truth)
                if way == self._settings.prompts[0]:
                    each.mask = found
        yield from map(self._row, pairs)

    def _truth(self, at: int, instruction: int, planes: Planes) -> npt.NDArray[np.bool_]:
        target = int(self._targets[at, instruction])
        return np.zeros_like(planes[0]) if target == NOTHING else planes[target]

    def _ways(self, pairs: Sequence[_Pair]) -> Iterator[tuple[str, Sequence[_Pair], Prompt | None]]:
        """How pairs are outlined: its name, which pairs, their prompt; None is the mean mask."""
        filled = [each for each in pairs if each.truth.any()]
        states = self._task.judged_states
        for name in self._settings.prompts:
            if name == "words":
                own = [states[each.image, each.instruction] for each in pairs]
                yield name, pairs, _words(own)
                wrong = [(each, self._other_words(each)) for each in filled]
                known = [(each, other) for each, other in wrong if other is not None]
                said = [states[each.image, other] for each, other in known]
                yield WRONG, [each for each, _ in known], _words(said)
                seen = [(each, self._others[each.image]) for each in filled]
                met = [(each, other) for each, other in seen if other is not None]
                said = [states[other, each.instruction] for each, other in met]
                yield OTHER, [each for each, _ in met], _words(said)
            elif name == "none":
                yield name, pairs, Prompt()
            else:
                draw = box_of if name == "boxes" else point_of
                drawn = np.array([draw(each.truth) * self._scale(each) for each in filled])
                places = torch.from_numpy(drawn.astype(np.float32))
                yield (
                    name,
                    filled,
                    Prompt(boxes=places) if name == "boxes" else Prompt(points=places),
                )
        yield MEAN, pairs, None

    def _scale(self, pair: _Pair) -> float:
        """From an image's pixels to those of SAM's input."""
        return float(self._task.shape.image_size / max(pair.truth.shape))

    def _other_words(self, pair: _Pair) -> int | None:
        """The next instruction that means something else in the image."""
        num = int(self._targets.shape[1])
        for step in range(1, num):
            other = (pair.instruction + step) % num
            if self._targets[pair.image, other] != self._targets[pair.image, pair.instruction]:
                return other
        return None

    def _row(self, pair: _Pair) -> dict[str, Any]:
        image = self._task.judged[pair.image]
        row = {
            "image_id": image.image.image_id,
            "study_id": image.study_id,
            "patient_key": image.patient_key,
            "instruction": pair.instruction,
            "has_target": bool(pair.truth.any()),
            "scores": {way: list(values) for way, values in pair.scores.items()},
            "mask_png": None if pair.mask is None else encode_png(_as_grey(pair.mask)),
        }
        if pair.mask is None or not row["has_target"]:
            return row
        spacing = None if self._settings.unit == "pixels" else image.spacing_mm
        found, true = (extent_of(each, spacing) for each in (pair.mask, pair.truth))
        return row | {
            "unit": "mm" if spacing else "pixels",
            "diameter": found.diameter,
            "true_diameter": true.diameter,
            "area": found.area,
            "true_area": true.area,
        }


def _as_grey(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.where(mask, 255, 0).astype(np.uint8)


def _words(states: Sequence[npt.NDArray[np.float32]]) -> Prompt:
    return Prompt(states=torch.from_numpy(np.array(states, np.float32)))


def _of_others(images: Sequence[MaskedImage]) -> Mapping[int, int | None]:
    """For each image the next one of another patient; None where there is none."""
    num = len(images)
    return {
        at: next(
            (
                (at + step) % num
                for step in range(1, num)
                if images[(at + step) % num].patient_key != images[at].patient_key
            ),
            None,
        )
        for at in range(num)
    }
