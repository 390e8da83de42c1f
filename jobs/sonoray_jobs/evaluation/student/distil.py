"""Distil: teach a student the closed questions of a training, and judge it beside the model.

LEADER (arXiv 2402.02803) distils a language model's states into a small classifier so; ours reads
the features of both towers.

Two content-addressed stages. The first is what the model says of the training studies and of the
judged split (`teaching`), which other settings of the student share. The second is the student: its
weights and its report, `student.md` and `student-report.json`, which also go to the training's
MLflow run. Answers and states stay in the workspace.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import asked_studies, closed_studies
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

logger = logging.getLogger(__name__)

_TEACHING = (
    "sonoray_jobs.evaluation.questions",
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.student.teaching",
)
_CODE = (
    "sonoray_jobs.evaluation.student.lessons",
    "sonoray_jobs.evaluation.student.router",
    "sonoray_jobs.evaluation.student.student_report",
    "sonoray_jobs.evaluation.student.trust",
)
_REPORT = ("student.md", "student-report.json")

BUDGETS = (0.0, 0.005, 0.01, 0.02, 0.05)
"""Of accuracy, that the report says the worth of, beside `distil.budget`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """A student, judged."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of the report."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.student.student_report import (
            router_line,
            router_table,
            student_table,
        )

        values, times = self.values, self.values["times"]
        lines = [
            f"{self.split}: {values['all']['num_questions']} closed questions of "
            f"{values['num_studies']} studies, 95 % intervals over patients; teacher "
            f"{values['teacher']}",
            *student_table(values).text(),
            f"CPU time a study, without reading features: model {times['model_ms']:.1f} ms, "
            f"student {times['student_ms']:.3f} ms ({times['ratio']:.4f} of it)",
        ]
        lines.append(router_line(values["router"]))
        if values["router"]["budgets"]:
            lines += router_table(values).text()
        if values["num_unknown"]:
            lines.append(
                f"{values['num_unknown']} questions are of topics that no training study is asked "
                "about: only the model answers them"
            )
        lines.append(
            f"student: {values['num_parameters']:,} parameters, {values['epochs']} epochs, "
            f"{self.output.path}"
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Distilled:
    """Teach a student and judge it.

    Args:
        workspace: where everything lies.
        road: the settings; section `distil` is the student's.
        dataset: name of the dataset.
        split: whose studies both are asked about; it learns from the training studies.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, or no closed question is asked of both splits.
        ConfigError: the training that `run` names is of another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    if split not in SPLITS[1:]:
        raise DataError(
            f"split {split!r} is none to judge a student on; choose {' or '.join(SPLITS[1:])}"
        )
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    studies = _studies(output, made, split)
    evaluate = road.evaluate
    taught = run_stage(
        Stage(
            name=f"teach-{dataset}-{split}",
            config={
                "only": evaluate.only,
                "topics": list(evaluate.topics),
                "precision": evaluate.precision,
                "features": road.embed.dtype,
            },
            inputs=[output.key, made.trained.name, made.trained.run_id],
            code=_TEACHING,
        ),
        workspace.stages,
        lambda folder: _teach(folder, workspace, made, studies, address),
    )
    stage = Stage(
        name=f"distil-{dataset}-{split}",
        config={
            "distil": road.distil.model_dump(mode="json"),
            "positive_options": evaluate.positive_options,
            "bootstrap": [evaluate.bootstrap_samples, evaluate.seed],
            "max_error_rate": road.export.max_error_rate,
        },
        inputs=[taught.key],
        code=_CODE,
    )
    result = run_stage(
        stage,
        workspace.stages,
        lambda folder: _distil(folder, workspace, made, taught, split, tracking_uri),
    )
    return Distilled(output=result, split=split, values=result.manifest["summary"])


def _studies(output: StageOutput, made: Made, split: str) -> list[Study]:
    """Studies as they were trained on, of the split, and of the validation split for the router.

    Closed questions alone.
    """
    road = made.road
    everyone = road.model_copy(update={"evaluate": road.evaluate.model_copy(update={"only": {}})})
    learned = {study.study_id for study in iter_training_studies(output.path, road.train)}
    train = [
        study for study in asked_studies(output.path, everyone, "train")
        if study.study_id in learned
    ]  # fmt: skip
    judged = closed_studies(asked_studies(output.path, road, split))
    chosen: list[Study] = []
    if split != SPLITS[1]:
        try:
            chosen = closed_studies(asked_studies(output.path, everyone, SPLITS[1]))
        except DataError:  # it has no studies, or none with such questions
            logger.info("no closed question is asked of the validation split")
    return [*closed_studies(train), *chosen, *judged]


def _teach(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    address: str | None,
) -> dict[str, Any]:
    from sonoray_jobs.evaluation.answer_pool import read_studies
    from sonoray_jobs.evaluation.student.teaching import TeacherActor, write_taught

    rows = read_studies(
        workspace,
        made,
        studies,
        actor=TeacherActor,
        given={},
        address=address,
        what="ask the teacher",
    )
    return write_taught(folder, studies, rows)


def _distil(
    folder: Path,
    workspace: Workspace,
    made: Made,
    taught: StageOutput,
    split: str,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Teach, judge, write into `folder`, log what holds numbers alone."""
    from llava_ultra.student.learning import learn
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, require_run
    from sonoray_jobs.evaluation.student.lessons import (
        first_questions,
        make_lessons,
        model_records,
        student_records,
        topics_of,
        wordings_of,
    )
    from sonoray_jobs.evaluation.student.router import cooled
    from sonoray_jobs.evaluation.student.student_report import (
        judge_router,
        judge_student,
        router_table,
        student_table,
        times_of,
    )
    from sonoray_jobs.evaluation.student.teaching import read_taught
    from sonoray_jobs.evaluation.student.trust import find_trust

    road, trained = made.road, made.trained
    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, trained.run_id)
    rows = read_taught(taught.path)
    train, judged = ([row for row in rows if row["split"] == each] for each in (SPLITS[0], split))
    logger.info("teach a student from %d studies", len(train))
    learned = learn(make_lessons(train), road.distil)
    student = learned.student
    topics = topics_of(train)
    theirs = model_records(judged, topics)
    if not theirs:
        raise DataError(
            f"no {split} study is asked about a topic of the training studies; name topics that "
            "both are asked about with --set evaluate.topics"
        )
    ours, times = student_records(student, judged)
    truths = defaultdict(list)
    for row in train:
        for _, question in first_questions(row):
            truths[question["topic"]].append(question["truth"])
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values = judge_student(theirs, ours, truths, road.evaluate.positive_options, bootstrap)
    trust = find_trust(learned, rows, split, max_error_rate=road.export.max_error_rate)
    sure = cooled(ours, trust.temperature)
    card = {
        "teacher": trained.name,
        "towers": dict(made.located.fingerprints),
        "questions": wordings_of(train),
        "calibration": trust.calibration,
        "routes": [route.model_dump() for route in trust.routes],
    }
    student.save(folder, settings=road.distil.model_dump(mode="json"), card=card)
    budgets = sorted({*BUDGETS, road.distil.budget})
    routers = [
        judge_router(theirs, sure, trust.routes, each, bootstrap)
        for each in (budgets if trust.routes else [])
    ]
    values |= {
        "router": {
            "chosen_on": trust.chosen_on,
            "budget": road.distil.budget,
            "budgets": routers,
        },
        "calibration": trust.calibration,
        "num_studies": len(judged),
        "num_unknown": sum(len(first_questions(row)) for row in judged) - len(theirs),
        "times": times_of(
            [row["model_s"] for row in judged], [row["pooling_s"] for row in judged], times
        ),
        "num_parameters": sum(each.numel() for each in student.parameters()),
        "epochs": learned.epochs,
        "teacher": trained.name,
    }
    markdown, as_json = (folder / name for name in _REPORT)
    tables = [student_table(values), *([router_table(values)] if trust.routes else [])]
    text = "\n\n".join("\n".join(table.markdown()) for table in tables)
    markdown.write_text(text + "\n", encoding="utf-8")
    write_json(as_json, values)
    settings = content_hash(road.distil.model_dump(mode="json"))[:6]
    shown = f"student/{split}-{settings}"
    headlines = {
        f"{shown}/accuracy": values["all"]["accuracy"]["second"],
        f"{shown}/minus_model": values["all"]["accuracy"]["value"],
    }
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, trained.run_id, headlines, artifacts)
    return {**values, "run_id": trained.run_id}
