"""Segment: outline in a picture what words ask for, learn how from masks, and judge it.

After Zeus (arXiv 2504.07336), of which the abstract is known: a frozen language model's
instructions condition a segmenter with SAM's mask decoder. The state that a training's decoder has
of an instruction, about an image that it has read, becomes prompt tokens of SAM's mask decoder over
the features that are cached of SAM; boxes, points and nothing at all are prompts of the same
decoder. What of it is known and what our choice stands in docs/methods.md.

Two content-addressed stages: the states, and what was learned from them, judged: the segmenter,
`outlines.parquet` with all masks, and its report, `segment.md` and `segment-report.json`, which
also go to the training's MLflow run. Pictures are a third one. Masks and pictures stay in the
workspace.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from sonoray.cluster.session import ray_session
from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.segmentation.masked_images import (
    MaskedImage,
    check_instructions,
    check_levels,
    masked_images,
)
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

logger = logging.getLogger(__name__)

_STATES = "told.npz"
_WRITTEN = "written.json"
_REPORT = ("segment.md", "segment-report.json")
_READING = ("sonoray_jobs.evaluation.segmentation.told_images",)
_CODE = (
    "sonoray_jobs.evaluation.segmentation.outlining",
    "sonoray_jobs.evaluation.segmentation.segment_report",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmented:
    """A segmenter, judged."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of the report."""
    pictures: Path | None
    """Page of the pictures; None where none are wanted."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.segmentation.segment_report import (
            differences_table,
            outlines_table,
            size_lines,
        )

        values = self.values
        return [
            f"{self.split}: {values['num_images']} images with masks, learned from "
            f"{values['num_train']}; Dice, 95 % intervals over patients; model {values['model']}",
            *outlines_table(values).text(),
            "",
            *differences_table(values).text(),
            "",
            *size_lines(values),
            f"segmenter: {values['num_parameters']:,} parameters, {self.output.path}",
            *([f"pictures: {self.pictures}"] if self.pictures else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        pictures = str(self.pictures) if self.pictures else None
        return {
            "split": self.split,
            "path": str(self.output.path),
            "pictures": pictures,
            **self.values,
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    gallery: int = 6,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Segmented:
    """Learn to outline, and judge it.

    Args:
        workspace: where everything lies.
        road: the settings; section `segment` says what is asked for and how it is learned.
        dataset: name of the dataset.
        split: whose images are outlined; it learns from those of the training studies.
        gallery: how many images to show with their outlines.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, images lack masks or features, no instruction
            means anything, or millimetres are asked for where no spacing is known.
        ConfigError: the training that `run` names is of another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    if split not in SPLITS[1:]:
        raise DataError(
            f"split {split!r} is none to judge outlines on; choose {' or '.join(SPLITS[1:])}"
        )
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    train, judged = _images(output, made, split)
    _require_features(workspace, made, [*train, *judged])
    segment = made.road.segment
    telling = Stage(
        name=f"tell-{dataset}-{split}",
        config={
            "images": content_hash([each.image.image_id for each in (*train, *judged)]),
            "instructions": [each.text for each in segment.instructions],
            "written_for": segment.written_for,
            "layer": segment.layer,
            "precision": road.evaluate.precision,
            "max_tokens": road.evaluate.max_tokens if segment.written_for else 0,
            "features": road.embed.dtype,
        },
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_READING,
    )
    learning = Stage(
        name=f"segment-{dataset}-{split}",
        config={
            "segment": segment.model_dump(mode="json"),
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[telling.key],
        code=_CODE,
    )
    root, images = workspace.stages, (train, judged)
    # one Ray for both
    with nullcontext() if learning.is_made(root) else ray_session(address):
        read = run_stage(
            telling, root, lambda folder: _tell(folder, workspace, made, [*train, *judged], address)
        )
        result = run_stage(
            learning,
            root,
            lambda folder: _segment(
                folder, workspace, made, read, images, split, address, tracking_uri
            ),
        )
    return Segmented(
        output=result,
        split=split,
        values=result.manifest["summary"],
        pictures=_pictures(result, output, workspace, judged, segment, gallery),
    )


def _images(
    output: StageOutput, made: Made, split: str
) -> tuple[list[MaskedImage], list[MaskedImage]]:
    """Those of the studies that were trained on, and those of the split."""
    segment, evaluate = made.road.segment, made.road.evaluate
    learned: list[Study] = list(iter_training_studies(output.path, made.road.train))
    asked = [
        study
        for study in iter_studies(output.path, split=split, only=evaluate.only, complete=False)
        if study.images
    ]
    if not asked:
        raise DataError(
            f"dataset {str(output.path)!r} has no {split} studies with images of "
            f"evaluate.only = {evaluate.only}; take another split"
        )
    train = masked_images(output.path, learned, segment.max_examples)
    judged = masked_images(output.path, asked)
    check_instructions(segment, [*train, *judged])
    check_levels(output.path, train, segment)
    return train, judged


def _require_features(workspace: Workspace, made: Made, images: Sequence[MaskedImage]) -> None:
    """Refuse a training whose stored features are gone, before a cluster starts."""
    if not made.road.embed.keeps("sam"):
        return  # computed where they are needed
    lacking = made.stores(workspace)["sam"].missing(each.image.image_id for each in images)
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(images)} images have no features of SAM (first: "
            f"{lacking[0]!r}); run: sonoray embed"
        )


def _tell(
    folder: Path,
    workspace: Workspace,
    made: Made,
    images: Sequence[MaskedImage],
    address: str | None,
) -> dict[str, Any]:
    import numpy as np

    from sonoray_jobs.evaluation.segmentation.told_images import read_told, write_first

    question = made.road.segment.written_for
    written = write_first(workspace, made, images, question, address) if question else {}
    if question:
        write_json(folder / _WRITTEN, {image: turn.answer for image, turn in written.items()})
    states = read_told(workspace, made, images, written, address)
    np.savez(folder / _STATES, states=states)
    return {"num_images": len(images), "num_instructions": states.shape[1]}


def _segment(
    folder: Path,
    workspace: Workspace,
    made: Made,
    read: StageOutput,
    images: tuple[Sequence[MaskedImage], Sequence[MaskedImage]],
    split: str,
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Learn, judge, write into `folder`, log what holds numbers alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, require_run
    from sonoray_jobs.evaluation.segmentation.overlays import OUTLINES
    from sonoray_jobs.evaluation.segmentation.segment_report import (
        differences_table,
        judge_outlines,
        outlines_table,
        size_lines,
    )

    road, trained = made.road, made.trained
    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, trained.run_id)
    found = _learn(folder, workspace, made, read, images, address)
    kept = [{**row, "scores": json.dumps(row["scores"])} for row in found["rows"]]
    pq.write_table(pa.Table.from_pylist(kept, schema=_schema()), folder / OUTLINES)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    ways, compared = _ways(road.segment)
    values = judge_outlines(
        found["rows"], [each.text for each in road.segment.instructions], ways, compared, bootstrap
    )
    values |= {
        "num_images": len(images[1]),
        "num_train": len(images[0]),
        "num_parameters": found["num_parameters"],
        "last_loss": sum(found["losses"][-50:]) / len(found["losses"][-50:]),
        "model": trained.name,
    }
    tables = (outlines_table(values), outlines_table(values, "iou"), differences_table(values))
    text = ["Dice", "", *tables[0].markdown(), "", "IoU", "", *tables[1].markdown(), ""]
    text += [*tables[2].markdown(), "", *size_lines(values)]
    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(text) + "\n", encoding="utf-8")
    write_json(as_json, values)
    whole = list(values["instructions"].values())[-1]
    shown = f"segment/{split}-{content_hash(road.segment.model_dump(mode='json'))[:6]}"
    headlines = {
        f"{shown}/dice_{way.replace(' ', '_')}": each["dice"]["value"]
        for way, each in whole["ways"].items()
        if each
    }
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, trained.run_id, headlines, artifacts)
    return {**values, "run_id": trained.run_id}


def _learn(
    folder: Path,
    workspace: Workspace,
    made: Made,
    read: StageOutput,
    images: tuple[Sequence[MaskedImage], Sequence[MaskedImage]],
    address: str | None,
) -> dict[str, Any]:
    """Learn and outline in one Ray task."""
    import numpy as np
    import ray

    from llava_ultra.segmentation.segmenter import SegmenterShape
    from sonoray.cluster.session import require_cpus
    from sonoray.cluster.step_board import StepBoard
    from sonoray_jobs.evaluation.answer_pool import features_of
    from sonoray_jobs.evaluation.segmentation.outlining import Outlining, learn_and_outline

    train, judged = images
    model, evaluate = made.road.model, made.road.evaluate
    with np.load(read.path / _STATES) as stored:
        states = stored["states"]
    task = Outlining(
        dataset=made.output.path,
        source=features_of(workspace, made),
        shape=SegmenterShape(
            settings=made.road.segment,
            image_size=model.sam.image_size,
            sam_grid=model.sam.grid,
            clip_grid=model.clip.grid,
            channels=model.sam_channels,
            state_width=states.shape[2],
        ),
        train=train,
        judged=judged,
        train_states=states[: len(train)],
        judged_states=states[len(train) :],
        device="cuda" if evaluate.actor_gpus else "cpu",
    )
    with ray_session(address):
        require_cpus(evaluate.actor_cpus, "segment", num_gpus=evaluate.actor_gpus)
        board = StepBoard.start()
        remote = ray.remote(num_cpus=evaluate.actor_cpus, num_gpus=evaluate.actor_gpus)(
            learn_and_outline
        )
        waiting = remote.remote(task, folder, board.poster("segment"), board.poster("outline"))
        with board.watching():
            found: dict[str, Any] = ray.get(waiting)
    return found


def _ways(segment: SegmentationConfig) -> tuple[list[str], list[tuple[str, str]]]:
    """How images are outlined, and which of these are compared: the first against the second."""
    from sonoray_jobs.evaluation.segmentation.outlining import MEAN, OTHER, WRONG

    ways: list[str] = []
    for name in segment.prompts:
        ways += [name, WRONG, OTHER] if name == "words" else [name]
    ways.append(MEAN)
    first = ways[0]
    return ways, [(each, first) for each in ways[1:]]


def _schema() -> Any:  # noqa: ANN401 - pyarrow's schema
    import pyarrow as pa

    sizes = [(name, pa.float64()) for name in ("diameter", "true_diameter", "area", "true_area")]
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("study_id", pa.string()),
            ("patient_key", pa.string()),
            ("instruction", pa.int64()),
            ("has_target", pa.bool_()),
            ("scores", pa.string()),
            ("mask_png", pa.binary()),
            ("unit", pa.string()),
            *sizes,
        ]
    )


def _pictures(
    result: StageOutput,
    output: StageOutput,
    workspace: Workspace,
    judged: Sequence[MaskedImage],
    segment: SegmentationConfig,
    number: int,
) -> Path | None:
    if number <= 0:
        return None
    from sonoray_jobs.evaluation.segmentation.overlays import make_overlays

    made = make_overlays(result, output.path, workspace.stages, judged, segment, num_images=number)
    return made.path / "overlays.md"
