"""Export: one folder with everything that answering needs, registered in MLflow as a version.

No alias moves, with one exception: the first version of a name becomes its `champion`, since there
is none that it could be worse than. After that `sonoray promote` moves it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.prompt import PROTOCOL
from sonoray.workspace import Workspace
from sonoray_jobs.data.leakage import wider_rule
from sonoray_jobs.outputs.find import (
    Made,
    Trained,
    export_stage,
    find_whole_evaluation,
)
from sonoray_jobs.outputs.find_student import find_student
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.part_keys import learned_from
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.release.collect_record import RecordSources, closed_answers
from sonoray_jobs.release.dataset_card import dataset_card
from sonoray_jobs.release.model_card import CARD, DATASET_CARD, CardSources, model_card
from sonoray_jobs.release.write_model import write_model
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.protocol import training_protocol

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store
    from sonoray.tracking.registry import RegisteredVersion

_PREDICTIONS = "predictions.parquet"
"""File of an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported and registered model."""

    path: Path
    version: "RegisteredVersion"
    champion: int
    """The version that the alias `champion` names."""
    is_first: bool
    """Whether it became the champion here, as the first version of its name."""
    digests: Mapping[str, str]
    has_internal_test: bool
    """Whether the folder holds the answers to the internal test."""
    calibration: Mapping[str, Any] | None = None
    """How its probabilities are made; None where nobody has measured it."""
    student: str = ""
    """Name of the output that its student comes from; empty where it has none."""

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return self.version.uri

    def lines(self) -> list[str]:
        """What a person reads."""
        state = "registered before" if self.version.reused else "registered"
        rows = [f"{state}: {self.uri}, files in {self.path}"]
        if self.version.repaired:
            rows.append("MLflow lacked files of this version: they were put there again")
        if self.is_first:
            rows.append(f"as the first version of {self.version.name} it is its champion")
        elif self.champion == self.version.version:
            rows.append("it is the champion")
        else:
            rows.append(
                f"version {self.champion} stays the champion; to compare both and move the alias: "
                f"sonoray promote {self.uri}"
            )
        if not self.has_internal_test:
            rows.append(
                "it was not evaluated, so it cannot be promoted, and sonoray validate will have no "
                "internal test to compare with; sonoray evaluate and another sonoray export add it"
            )
        if self.calibration:
            rows.append(
                "calibrated on {num_questions} closed questions of the validation split: "
                "temperature {temperature:.2f}, calibration error {ece_before:.3f} before and "
                "{ece_after:.3f} after; it abstains below {abstain_below:.2f}, where "
                "{coverage:.0%} are answered and {error_rate:.0%} of these wrong".format(
                    **self.calibration
                )
            )
        else:
            rows.append(
                "its probabilities of closed questions are not calibrated; sonoray evaluate "
                "--split validation and another sonoray export do that"
            )
        if self.student:
            rows.append(
                f"with its student {self.student}: served as {self.version.name}:student, and for "
                "the model within serve.student_budget"
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": str(self.path),
            "uri": self.uri,
            "name": self.version.name,
            "version": str(self.version.version),
            "champion": str(self.champion),
            "reused": self.version.reused,
            "repaired": self.version.repaired,
            "digests": dict(self.digests),
            "has_internal_test": self.has_internal_test,
            "calibration": None if self.calibration is None else dict(self.calibration),
            "student": self.student,
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    run: str | None = None,
    tracking_uri: str | None = None,
) -> Exported:
    """Write a trained model with its manifest and its cards, and register it.

    Nothing of it needs Ray.

    Args:
        workspace: where everything lies.
        road: the settings.
        dataset: name of the dataset that it was trained on.
        run: a finished training by name; by default the one that the settings mean.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, or has no student where `export.student` wants it.
        CheckpointError: its frozen parts have changed since.
        ConfigError: the training that `run` names is of another dataset.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    from sonoray.tracking.aliases import CHAMPION, aliased_version, move_alias
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.delivery import deliver_waiting
    from sonoray.tracking.registry import check_name, register

    name = road.export.name_for(dataset)
    check_name(name)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    store = open_store(workspace, tracking_uri)
    deliver_waiting(store, workspace.runs)
    test = find_whole_evaluation(workspace, dataset, made.trained, "test")
    digest = test.manifest["files"][_PREDICTIONS] if test else ""
    calibration = _calibrate(workspace, road, dataset, made.trained)
    student = find_student(workspace, dataset, made.trained) if road.export.student else None
    stage = export_stage(name, made.output, made.trained, made.parts, digest, calibration, student)
    _require_run(store, workspace, stage, made.trained)
    result = run_stage(
        stage,
        workspace.stages,
        lambda folder: _write(folder, workspace, made, stage, test, calibration, student),
    )
    digests = result.manifest["summary"]["digests"]
    version = register(
        store,
        result.path / "model",
        name,
        run_id=made.trained.run_id,
        tags={f"digest.{part}": digest[:16] for part, digest in digests.items()},
    )
    champion = aliased_version(store, name, CHAMPION)
    if champion is None:
        move_alias(store, version, CHAMPION)
    return Exported(
        path=result.path / "model",
        version=version,
        champion=(champion or version).version,
        is_first=champion is None,
        digests=digests,
        has_internal_test=test is not None,
        calibration=calibration,
        student="" if student is None else student.path.name,
    )


def _calibrate(
    workspace: Workspace, road: RoadConfig, dataset: str, trained: Trained
) -> Mapping[str, Any] | None:
    """How the model's probabilities are made, from its answers to the validation split.

    None where that was not evaluated, or has too few closed questions.
    """
    from sonoray.metrics.external.temperature import fit_temperature

    validation = find_whole_evaluation(workspace, dataset, trained, "validation")
    if validation is None:
        return None
    records = closed_answers(validation.path / _PREDICTIONS)
    found = fit_temperature(records, max_error_rate=road.export.max_error_rate)
    return None if found is None else found.to_json()


def _require_run(store: "Store", workspace: Workspace, stage: Stage, trained: Trained) -> None:
    """Check that MLflow knows the training, before work; where only files are lacking it need not.

    Raises:
        TrackingError: it does not.
    """
    from sonoray.tracking.registry import find_registered, manifest_digest
    from sonoray.tracking.runs import require_run

    if stage.is_made(workspace.stages):
        digest = manifest_digest(stage.path(workspace.stages) / "model")
        if find_registered(store, stage.config["name"], digest) is not None:
            return
    require_run(store, trained.run_id)


def _tuned(made: Made) -> dict[str, str]:
    """By tower of the training that was tuned: the name of the tuning."""
    sources = {
        part: str(found.manifest["summary"].get("source", "")) for part, found in made.parts.items()
    }
    return {part: name for part, name in sources.items() if name.startswith("tune-")}


def _write(
    folder: Path,
    workspace: Workspace,
    made: Made,
    stage: Stage,
    test: StageOutput | None,
    calibration: Mapping[str, Any] | None,
    student: StageOutput | None,
) -> dict[str, Any]:
    """Write the model's folder into that of the stage."""
    road, output, name = made.road, made.output, stage.config["name"]
    learned = learned_from(workspace, road, made.dataset)
    model = folder / "model"
    protocol = training_protocol(output.path, road.train)
    digests = write_model(
        model,
        made.located,
        {part: found.path for part, found in made.parts.items()},
        name=name,
        site_cue=road.train.site_cue,
        tower_precision=road.embed.precision,
        provenance={
            **{key: value for key, value in stage.config.items() if key != "name"},
            **({PROTOCOL: protocol.model_dump(mode="json")} if protocol.questions else {}),
        },
        record=RecordSources(
            dataset=output.path,
            learned=[output.path, learned.path],
            train=road.train,
            dtype=road.embed.dtype,
            near_duplicates=wider_rule(output, learned),
            answers=None if test is None else test.path / _PREDICTIONS,
        ),
        calibration=calibration,
        student=None if student is None else student.path,
    )
    facts = json.loads((model / "record.json").read_text(encoding="utf-8"))
    card = model_card(
        json.loads((model / "manifest.json").read_text(encoding="utf-8")),
        facts,
        CardSources(
            name=name,
            dataset=made.dataset,
            num_training_patients=facts["num_training_patients"],
            run_id=made.trained.run_id,
            training=made.trained.name,
            settings=road.train.model_dump(mode="json"),
            metrics=made.trained.metrics,
            evaluation=None if test is None else test.path,
            tuned=_tuned(made),
        ),
    )
    origin = workspace.dataset_pointer(made.dataset).get("origin") or {}
    about = dataset_card(made.dataset, str(origin.get("source", "")), output.manifest, output.path)
    (model / CARD).write_text(card, encoding="utf-8")
    (model / DATASET_CARD).write_text(about, encoding="utf-8")
    return {"digests": digests}
