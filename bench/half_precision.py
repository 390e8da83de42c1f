"""What bfloat16 costs and saves: features, answers, and the towers' time, of an exported model.

Run after `sonoray export`, with the folder that it names:
`.venv/bin/python bench/half_precision.py --model FOLDER --dataset phantom`

The test split's images go through both towers in float32 and in bfloat16 (`embed.precision`), batch
by batch in turn on one thread, and the model answers all its questions from either, in float32 and
in bfloat16 (`evaluate.precision`). Shown are the features' error (root mean square over that of the
features), the median ratio of CPU times, how many answers differ from those of float32 throughout,
and the largest change of an option's log-likelihood.

With `--shape` a SAM of that preset with random weights is measured instead, at `--image-size`
pixels and on noise: what remains of the error where nothing but its weights is rounded, and where
nothing but its activations is, tells where it comes from.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from feature_formats import answer
from torch import Tensor, nn

from llava_ultra.export.assistant import load_exported
from llava_ultra.export.manifest import read_artifact_manifest
from llava_ultra.parameters.products import DTYPES
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.lowered import lower_tower
from llava_ultra.towers.pixels import normalise, to_canvases
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import fit_standardiser
from sonoray.study.contract import iter_studies
from sonoray.study.image_table import read_images
from sonoray.study.prompt import with_site_cue
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.answer import AnswerActor
from sonoray_jobs.road.config import EvaluateConfig, load_road
from sonoray_jobs.towers.feature_source import FeatureSource

KINDS = {"clip": ClipTower, "sam": SamTower}
PRECISIONS = ("float32", "bfloat16")
NOISE_IMAGES = 2


@dataclass(frozen=True)
class Held:
    """Features in memory, read as a store's are."""

    features: dict[str, np.ndarray]

    def read(self, ids: Sequence[str]) -> np.ndarray:
        """(N, P, C), float32."""
        return np.stack([self.features[image_id] for image_id in ids])


def main() -> None:
    """Print a line a tower and a line a way to answer; or a line a way to round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--model", type=Path, help="folder of an exported model")
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--shape", help="a preset, whose SAM is measured with random weights")
    parser.add_argument("--image-size", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.shape:
        measure_shape(given.shape, given.image_size)
    else:
        dataset = Workspace.open(given.workspace).dataset(given.dataset).path
        measure_model(given.model, dataset, given.batch)


def measure_model(folder: Path, dataset: Path, batch: int) -> None:
    """Towers and answers of an exported model."""
    studies = list(iter_studies(dataset, split="test"))
    if read_artifact_manifest(folder)["site_cue"]:
        studies = [with_site_cue(study) for study in studies]
    ids = sorted({image.image_id for study in studies for image in study.images})
    found = read_images(dataset, ids)
    pixels = [np.asarray(found[image_id][0]) for image_id in ids]
    stores: dict[str, dict[str, Held]] = {precision: {} for precision in PRECISIONS}
    for name, kind in KINDS.items():
        tower = kind.load(folder / name)
        canvases = normalise(
            to_canvases(pixels, tower.image_size, tower.intensity), *tower.pixel_statistics
        )
        features, ratio = in_turn(tower, lowered(tower), canvases.split(batch))
        for precision, values in zip(PRECISIONS, features, strict=True):
            stores[precision][name] = Held(dict(zip(ids, values.numpy(), strict=True)))
        print(f"{name}: {len(ids)} images, error {error(*features):.4f}, time x {ratio:.2f}")
    reference: list[dict[str, Any]] = []
    for towers in PRECISIONS:
        for model in PRECISIONS:
            actor = AnswerActor(
                partial(load_exported, folder, model),
                EvaluateConfig(),
                FeatureSource(dataset=dataset, stores=stores[towers]),  # type: ignore[arg-type]  # reads alone
                "cpu",
            )
            start = time.process_time()
            rows = answer(actor, studies)
            seconds = time.process_time() - start
            reference = reference or rows
            print(
                f"towers {towers}, model {model}: {summary(rows, reference)}, {seconds:.1f} CPU s"
            )


def summary(rows: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """What differs from the answers of float32 throughout."""
    pairs = list(zip(rows, reference, strict=True))
    closed = [(row, other) for row, other in pairs if row["task"] == "closed"]
    changed = sum(row["answer"] != other["answer"] for row, other in closed)
    texts = sum(row["generated"] != other["generated"] for row, other in pairs)
    right = sum(row["answer"] == row["truth"] for row, _ in closed) / len(closed)
    shift = max(
        abs(value - json.loads(other["option_scores"])[option])
        for row, other in closed
        for option, value in json.loads(row["option_scores"]).items()
    )
    return (
        f"closed {right:.4f}, {changed} of {len(closed)} closed answers and {texts} of {len(rows)} "
        f"texts differ, largest change of a log-likelihood {shift:.3f}"
    )


def measure_shape(preset: str, image_size: int) -> None:
    """A SAM with random weights: where its error comes from."""
    config = load_road(preset).model.sam.model_copy(update={"image_size": image_size})
    torch.manual_seed(0)
    tower = SamTower(config, target_grid=config.grid // 2).eval()
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "rel_pos" in name:  # zero where nobody trained them
                parameter.normal_(std=0.2)
    noise = np.random.default_rng(0)
    shape = (NOISE_IMAGES, image_size, image_size, 3)
    canvases = noise.integers(0, 256, shape, dtype=np.uint8)
    fit_standardiser(tower, canvases)
    batches = normalise(canvases).split(1)
    convolutions = lowered(tower)
    for layer in convolutions.modules():
        if isinstance(layer, nn.Conv2d):
            round_weights(layer)
    weights = deepcopy(tower)
    for layer in weights.modules():
        if isinstance(layer, nn.Linear):
            round_weights(layer)
    ways = {
        "bfloat16": lowered(tower),
        "bfloat16, and the convolutions' weights rounded": convolutions,
        "float32 with the blocks' weights rounded": weights,
    }
    for way, rounded in ways.items():
        features, ratio = in_turn(tower, rounded, batches)
        print(f"{way}: error {error(*features):.4f}, time x {ratio:.2f}")


def round_weights(layer: nn.Module) -> None:
    """Round a layer's parameters to bfloat16 and keep them as float32."""
    for parameter in layer.parameters(recurse=False):
        parameter.data = parameter.data.bfloat16().float()


def lowered(tower: nn.Module) -> nn.Module:
    """A copy that multiplies in bfloat16."""
    copy = deepcopy(tower)
    lower_tower(copy, DTYPES["bfloat16"])
    return copy


@torch.no_grad()
def in_turn(
    full: Callable[[Tensor], Tensor], rounded: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> tuple[tuple[Tensor, Tensor], float]:
    """Both towers' features, (N, P, C), and the median ratio of the rounded one's CPU time."""
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    ratios = []
    for tower in (full, rounded):
        tower(batches[0])  # the first call allocates
    for batch in batches:
        times = []
        for tower, found in zip((full, rounded), features, strict=True):
            start = time.process_time()
            found.append(tower(batch))
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0])
    return (torch.cat(features[0]), torch.cat(features[1])), median(ratios)


def error(wanted: Tensor, found: Tensor) -> float:
    """Root mean square of the difference over that of the features."""
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


if __name__ == "__main__":
    main()
