"""Robustness: answer a split's closed questions under every condition, and judge what is lost.

The output is a content-addressed stage: `predictions.parquet`, which stays in the workspace, and
what holds numbers alone, which also goes to the training's MLflow run: `robustness.md`,
`robustness.json`, `robustness.png`. The towers run once over each image and condition, and over
the reference images; no store keeps what they give.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import Study
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import asked_studies, closed_studies, num_asked
from sonoray_jobs.evaluation.robustness.conditions import STRENGTHS, Conditions, make_conditions
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.placement import EVALUATION_PLACEMENT, without_neutral
from sonoray_jobs.training.studies import iter_training_studies

if TYPE_CHECKING:
    from llava_ultra.perturbations.calibration import Prototypes
    from sonoray_jobs.towers.feature_source import FeatureSource

_PASSES = 4
"""Forward passes of a tower that a batch of rows fills: the last one is filled up with blanks, so
that an eighth of the work is lost on average."""
_CODE = (
    "sonoray_jobs.evaluation.questions",
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.robustness.actor",
    "sonoray_jobs.evaluation.robustness.degradation",
    "sonoray_jobs.evaluation.robustness.curves",
)
_REPORT = ("robustness.md", "robustness.json", "robustness.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How robust a model is on a split."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of `robustness.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.robustness.degradation import kinds_table, signed

        accuracy = self.values["clean"]["accuracy"]
        lines = [
            f"{self.split}: {self.values['num_questions']} closed questions of "
            f"{self.values['num_studies']} studies, accuracy {accuracy['value']:.3f} clean; means "
            f"over strengths {', '.join(f'{each:g}' for each in self.values['strengths'])}, 95 % "
            "intervals over patients",
            *kinds_table(self.values).text(),
        ]
        if cured := self.values["clean"].get("calibrated"):
            lines += [
                f"calibrated, clean images: {signed(cured['gain'])}; {cured['recognised']:.2f} of "
                "them are taken for clean"
            ]
        return [*lines, f"picture: {self.output.path / _REPORT[2]}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    kinds: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS,
    references: int = 0,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Judged:
    """Judge the robustness of a trained model.

    Args:
        workspace: where everything lies.
        road: the settings.
        dataset: name of the dataset.
        split: whose studies are asked about.
        kinds: perturbations and wordings; empty stands for all.
        strengths: above 0, at most 1.
        references: training images from which a perturbation is recognised and calibrated; 0
            judges without.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        ConfigError: a kind or strength is none, or the training that `run` names is of another
            dataset.
        DataError: the training is not finished, or no closed question is asked.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    conditions = make_conditions(kinds, strengths)
    if references == 1:
        raise ConfigError("--references 1 shows no spread among clean images; give 0, or 2 or more")
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    studies = closed_studies(asked_studies(output.path, road, split))
    settings = road.evaluate.model_dump(mode="json", exclude=set(EVALUATION_PLACEMENT))
    asked = {
        "conditions": [each.to_json() for each in conditions.conditions],
        "references": references if conditions.of_images() else 0,
    }
    stage = Stage(
        name=f"robustness-{dataset}-{split}",
        config={**asked, "evaluate": without_neutral("evaluate", settings)},
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        return _make(folder, workspace, made, studies, conditions, asked, address, tracking_uri)

    result = run_stage(stage, workspace.stages, make)
    return Judged(output=result, split=split, values=result.manifest["summary"])


def _make(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    conditions: Conditions,
    asked: Mapping[str, Any],
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.cluster.session import ray_session
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, require_run
    from sonoray_jobs.evaluation.robustness import curves, degradation

    road, trained = made.road, made.trained
    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, trained.run_id)
    features = _features(workspace, made, conditions)
    with ray_session(address):
        prototypes = None
        if asked["references"]:
            prototypes = _prototypes(made, conditions, features, asked["references"], address)
        rows = _answer(made, studies, conditions, features, prototypes, address)
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values = degradation.judge(rows, conditions, road.evaluate.positive_options, bootstrap)
    values |= {
        "strengths": sorted({each.strength for each in conditions.conditions[1:]}),
        "references": asked["references"],
    }
    tables = (degradation.kinds_table(values), degradation.strengths_table(values))
    text = "\n\n".join("\n".join(table.markdown()) for table in tables)
    markdown, as_json, picture = (folder / name for name in _REPORT)
    markdown.write_text(text + "\n", encoding="utf-8")
    write_json(as_json, values)
    curves.draw(values, picture)
    chosen = {"split": studies[0].split, "settings": content_hash(dict(asked))[:6]}
    shown = f"robustness-{chosen['split']}-{chosen['settings']}"
    artifacts = {f"robustness/{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, trained.run_id, degradation.headlines(values, shown), artifacts)
    return {**values, "run_id": trained.run_id}


def _features(workspace: Workspace, made: Made, conditions: Conditions) -> "FeatureSource":
    """Both towers, run wherever features are needed."""
    from sonoray_jobs.evaluation.answer_pool import features_of

    return replace(features_of(workspace, made, keep="none"), views=conditions)


def _prototypes(
    made: Made,
    conditions: Conditions,
    features: "FeatureSource",
    references: int,
    address: str | None,
) -> "Prototypes":
    """What the towers see of training images under each condition of images."""
    import numpy as np

    from llava_ultra.perturbations.calibration import Prototypes
    from sonoray_jobs.evaluation.answer_pool import answer_rows
    from sonoray_jobs.evaluation.robustness.actor import ReferenceActor

    studies = _first_images(iter_training_studies(made.output.path, made.road.train), references)
    under = [0, *conditions.of_images()]
    num_images = sum(len(study.images) for study in studies)
    found = answer_rows(
        _rows(studies, under),
        num_answers=num_images * len(under),
        actor=ReferenceActor,
        given={},
        trained_in=made.road.train.precision,
        settings=made.road.evaluate,
        features=features,
        address=address,
        batch_size=_batch_size(studies, features.batch_size),
        what="describe images",
    )
    number_of = {condition: number for number, condition in enumerate(under)}
    described = {
        tower: np.stack([np.asarray(row[tower]).reshape(2, -1) for row in found])
        for tower in features.stores
    }
    return Prototypes.fit(described, [number_of[int(row["condition"])] for row in found])


def _answer(
    made: Made,
    studies: Sequence[Study],
    conditions: Conditions,
    features: "FeatureSource",
    prototypes: "Prototypes | None",
    address: str | None,
) -> list[dict[str, Any]]:
    from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
    from sonoray_jobs.evaluation.answer_pool import answer_rows
    from sonoray_jobs.evaluation.robustness.actor import ConditionActor
    from sonoray_jobs.training.restore import load_trained

    road, model = made.road, made.located
    worded = [conditions.word(study, at) for at in range(len(conditions)) for study in studies]
    check_lengths(read_tokenizer(model.language), worded, road.model, judged)
    times = len(conditions) * (1 if prototypes is None else 2)
    return answer_rows(
        _rows(studies, range(len(conditions))),
        num_answers=num_asked(studies) * times,
        actor=ConditionActor,
        given={
            "load": partial(load_trained, model, road.evaluate.precision),
            "conditions": conditions,
            "prototypes": prototypes,
        },
        trained_in=road.train.precision,
        settings=road.evaluate,
        features=features,
        address=address,
        batch_size=_batch_size(studies, features.batch_size),
    )


def _rows(studies: Sequence[Study], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Each study under each condition; a batch holds one study under many of them."""
    from sonoray_jobs.evaluation.answer import pack_studies

    return [
        {**row, "condition": number} for row in pack_studies(list(studies)) for number in numbers
    ]


def _batch_size(studies: Sequence[Study], images: int) -> int:
    """Rows whose images fill some forward passes of so many images."""
    mean = sum(len(study.images) for study in studies) / len(studies)
    return max(1, round(_PASSES * images / mean))


def _first_images(studies: Iterator[Study], number: int) -> list[Study]:
    """Studies with so many images in all, as far as there are."""
    taken: list[Study] = []
    for study in studies:
        if number <= 0:
            break
        taken.append(replace(study, images=study.images[:number], turns=()))
        number -= len(study.images)
    return taken
