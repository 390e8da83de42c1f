"""Bootstrap: make the towers and the language model where none can be downloaded.

Three parts, each content-addressed, each a Ray task on one CPU: the language model with its
tokenizer (trained, or taken from `model.language.source`), the SAM encoder from lesion masks, and
the CLIP tower from images and captions, which shares the tokenizer. Either tower is taken from
published weights where `model.sam.weights` or `model.clip.weights` names them, further ones
(`model.towers`) always are, and one that learned in the tuning that `bootstrap.tuned` names is
taken from there; then only its channels are standardised on the images. Only training patients are
read: no stage of the road ever sees a validation or test patient before evaluation.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llava_ultra.language.gguf_file import check_gguf, gguf_path
from llava_ultra.towers.weights_file import SUFFIXES, check_weights_file
from sonoray.errors import DataError
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import find_parts
from sonoray_jobs.outputs.further_tower import check_further, make_further
from sonoray_jobs.outputs.layers import read_out
from sonoray_jobs.outputs.part_keys import (
    PARTS,
    is_trained_tower,
    learned_from,
    learning_of,
    parts_of,
    stage_of,
)
from sonoray_jobs.outputs.tuned.tuned_tower import take_tuned
from sonoray_jobs.outputs.tuned.tuning_taken import (
    check_tuning,
    readout_of,
    tuned_towers,
    tuning_of,
)
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.learn_clip import make_clip
from sonoray_jobs.towers.learn_language import make_language
from sonoray_jobs.towers.learn_sam import make_sam
from sonoray_jobs.towers.learning_texts import learning_studies

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrapped:
    """The finished parts."""

    outputs: Mapping[str, StageOutput]

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = []
        for part, output in self.outputs.items():
            summary = output.manifest["summary"]
            if "source" in summary:
                what, state = f"taken from {summary['source']!r}", "copied"
            else:
                what = f"loss {summary['first_loss']:.3f} -> {summary['last_loss']:.3f}"
                state = f"{summary['num_examples']} examples"
            rows.append(f"{part}: {what} ({'reused' if output.reused else state}), {output.path}")
            if missing := summary.get("missing_levels"):
                rows.append(f"{part}: no mask holds {missing} of bootstrap.sam.mask_levels")
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            part: {"path": str(output.path), **output.manifest["summary"]}
            for part, output in self.outputs.items()
        }


def run(
    *, workspace: Workspace, road: RoadConfig, dataset: str, address: str | None = None
) -> Bootstrapped:
    """Make all parts, each where it does not exist yet.

    Raises:
        DataError: the dataset has no training studies, none of its images has a mask, or a text
            does not fit the context.
        ClusterError: Ray cannot be reached.
        ValueError: published weights are missing, damaged or of a kind that is not read.
    """
    output = learned_from(workspace, road, dataset)
    check_tuning(workspace, road, dataset)
    parts = parts_of(road)
    if unread := {tower.name for tower in road.model.towers} - {*road.model.read_towers}:
        logger.warning(
            "model.fusion.type %r does not read tower %s; concat, append and layer_merge do",
            road.model.fusion.type,
            ", ".join(sorted(unread)),
        )
    stages = {part: stage_of(part, road, output) for part in parts}
    if all((stage.path(workspace.stages) / "manifest.json").is_file() for stage in stages.values()):
        return Bootstrapped(outputs=find_parts(workspace, road, dataset))
    here = tuned_towers(road, workspace.stages) | {
        part for part, stage in stages.items() if stage.is_made(workspace.stages)
    }
    for tower in ("sam", "clip"):
        if tower not in here:
            _check_weights(getattr(road.model, tower).weights)
    for further in road.model.towers:
        if further.name not in here:
            check_further(further)
    if not stages["language"].is_made(workspace.stages) and (
        gguf := gguf_path(road.model.language.source)
    ):
        check_gguf(gguf)

    import ray

    from sonoray.cluster.session import ray_session
    from sonoray.cluster.step_board import StepBoard

    with ray_session(address):
        board = StepBoard.start()
        remote = ray.remote(num_cpus=1)(make_part)
        work = {
            part: remote.remote(
                part,
                road,
                output,
                (learning_of(part, road, output), stages[part]),  # paths mean these files here
                workspace.stages,
                board.poster(part),
            )
            for part in parts
        }
        with board.watching():
            results = ray.get(list(work.values()))
    return Bootstrapped(outputs=dict(zip(work, results, strict=True)))


def make_part(
    part: str,
    road: RoadConfig,
    dataset: StageOutput,
    stages: tuple[Stage, Stage],
    root: Path,
    post: Callable[[int, int, float], None],
) -> StageOutput:
    """Make one part, where it does not exist yet.

    Args:
        part: one of `parts_of` the road.
        road: the configuration.
        dataset: what it learns from.
        stages: `learning_of` and `stage_of` the part; the same one where nothing is read out.
        root: folder of the stages.
        post: progress callback.

    Raises:
        DataError: the dataset has no training studies, or none of its images has a mask.
    """
    if part in tuned_towers(road, root):
        tuning = tuning_of(road, root)
        take = partial(
            take_tuned,
            part=part,
            tuning=tuning.path,
            dataset=root / tuning.manifest["summary"]["dataset_folder"],
            readout=readout_of(part, road),
        )
        return run_stage(stages[1], root, take)
    own = {"language": make_language, "sam": make_sam, "clip": make_clip}
    make = own[part] if part in PARTS else partial(make_further, part)
    learning, reading = stages
    studies = learning_studies(dataset.path, road.train.hold_out)
    if not studies:
        raise DataError(_why_no_studies(dataset))

    def learn() -> StageOutput:
        return run_stage(
            learning, root, lambda folder: make(folder, road, dataset.path, studies, post)
        )

    if not is_trained_tower(part, road):
        return learn()
    return run_stage(
        reading, root, lambda folder: read_out(folder, part, road.model, dataset.path, learn())
    )


def _check_weights(weights: str) -> None:
    """Refuse a file of weights that would run code before a cluster starts.

    Raises:
        ValueError: it is missing, of another kind, or more than tensors.
    """
    path = Path(weights)
    if path.suffix in SUFFIXES:  # else one of open_clip's names, or nothing
        check_weights_file(path)


def _why_no_studies(dataset: StageOutput) -> str:
    """What a dataset lacks that has no complete training study."""
    every = list(iter_studies(dataset.path, split="train", complete=False))
    lacking = {
        "images": sum(not study.images for study in every),
        "texts": sum(not study.turns for study in every),
    }
    told = ", ".join(f"{count} without {what}" for what, count in lacking.items() if count)
    return (
        f"dataset {str(dataset.path)!r} has no training study with images and texts "
        f"({len(every)} in all{told and ': ' + told}); ingest it with both (--reports, --images), "
        "or more of it"
    )
