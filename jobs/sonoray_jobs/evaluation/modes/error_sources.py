"""Error sources: the closed questions put to the towers, to the language model and to the whole.

After FunBench (arXiv 2503.00901), which tells by three modes whether the encoder or the language
model is at fault. Its modes are: a linear probe of the frozen encoder; the language model, told the
findings; the whole model. `tower` is `sonoray probe`, `whole` is `sonoray evaluate`; `language` is
here (`told_findings`). `all` runs the three, and puts them in one table (`sources_report`).

The output of `language` and of the table are content-addressed stages; `sources.md` and
`sources.json`, which hold numbers alone, also go to the training's MLflow run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.predictions import read_predictions, to_record
from sonoray_jobs.evaluation.questions import asked_studies, training_answers
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.modes.told_findings import Told
    from sonoray_jobs.results import Result

MODES = ("tower", "language", "whole", "all")

_REPORT = ("sources.md", "sources.json")
_TELLING = (
    "sonoray_jobs.evaluation.questions",
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.modes.told_findings",
)
_CODE = ("sonoray_jobs.evaluation.modes.sources_report",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All modes in one table."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of `sources.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.modes.sources_report import sources_table

        values = self.values
        lines = [
            f"{self.split}: closed questions, accuracy with 95 % intervals over patients; tower: a "
            "linear probe of both towers, told which images show the finding; language: told the "
            f"findings, without pictures; whole: {values['training']}",
            *sources_table(values).text(),
            f"the findings name the true option of {values['share_named']:.0%} of the questions "
            "that are told them",
        ]
        if silent := values["num_silent"]:
            lines.append(f"{silent} studies say no findings in words, and are left out of language")
        return [*lines, f"all differences: {self.output.path / _REPORT[1]}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldAnswers:
    """What the language model says alone."""

    output: StageOutput
    split: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """Counts and accuracy by topic."""
        summary: Mapping[str, Any] = self.output.manifest["summary"]
        return summary

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray.metrics.resampling import Estimate

        summary = self.summary
        return [
            f"{self.split}: {summary['num_questions']} closed questions of "
            f"{summary['num_studies']} studies, told the findings, without pictures; "
            f"{summary['num_silent']} studies say none",
            *(f"{topic}: {Estimate(**own)}" for topic, own in summary["topics"].items()),
            f"the findings name the true option of {summary['share_named']:.0%} of them",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.summary}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    mode: str,
    split: str = "test",
    gallery: int | None = None,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> "Result":
    """Answer a split's closed questions in one mode, or in all of them.

    Args:
        workspace: where everything lies.
        road: the settings; `modes.levels` says of which level a topic is.
        dataset: name of the dataset.
        mode: one of `MODES`.
        split: whose studies are asked.
        gallery: how many studies are shown with their images, in the mode `whole`.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, no closed question is asked, or no study says its
            findings in words.
        ConfigError: the mode is unknown, or the training that `run` names is of another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    from sonoray_jobs.evaluation import evaluate
    from sonoray_jobs.evaluation.probing import probe

    given: dict[str, Any] = {
        "workspace": workspace,
        "road": road,
        "dataset": dataset,
        "split": split,
        "address": address,
    }
    if mode not in MODES:
        raise ConfigError(f"--mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    if mode == "whole":
        shown = evaluate.DEFAULT_GALLERY if gallery is None else gallery
        return evaluate.run(**given, gallery=shown, run=run, tracking_uri=tracking_uri)
    if gallery is not None:
        raise ConfigError(
            f"--gallery {gallery} shows answers of the whole; leave out --mode {mode}"
        )
    if mode == "tower":
        return probe.run(**given, run=run)
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    told = _language(workspace, made, dataset, split, address)
    if mode == "language":
        return ToldAnswers(output=told, split=split)
    whole = evaluate.run(**given, gallery=0, run=run, tracking_uri=tracking_uri)
    probed = probe.run(**given, run=str(whole.output.path))
    levels = road.modes.levels
    stage = Stage(
        name=f"sources-{dataset}-{split}",
        config={
            "levels": dict(levels),
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[told.key, whole.output.key, probed.output.key],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        from sonoray_jobs.evaluation.modes.sources_report import judge_sources

        summary = told.manifest["summary"]
        values = judge_sources(
            _closed(read_predictions(whole.output.path)),
            _closed(
                [row for row in read_predictions(probed.output.path) if row["probe"] == "both"]
            ),
            _closed(read_predictions(told.path)),
            training_answers(output.path, road),
            levels,
            _bootstrap(road),
        )
        values |= {
            "training": made.trained.name,
            "num_silent": summary["num_silent"],
            "share_named": summary["share_named"],
        }
        return _write(folder, workspace, made, split, values, tracking_uri)

    result = run_stage(stage, workspace.stages, make)
    return Sources(output=result, split=split, values=result.manifest["summary"])


def _language(
    workspace: Workspace, made: Made, dataset: str, split: str, address: str | None
) -> StageOutput:
    """The language model's answers, as a stage."""
    from sonoray_jobs.evaluation.modes.told_findings import tell

    road = made.road
    asked_studies(made.output.path, road, split)  # refuses topics that nobody is asked about
    whole = road.model_copy(update={"evaluate": road.evaluate.model_copy(update={"topics": ()})})
    studies = asked_studies(made.output.path, whole, split)
    found = [tell(study, road.evaluate.topics) for study in studies]
    told = [each for each in found if each is not None]
    if not told:
        raise DataError(
            f"no {split} study says its findings in words: none has a report, or a second closed "
            "question beside the one that is asked; use --mode tower or whole"
        )
    stage = Stage(
        name=f"language-{dataset}-{split}",
        config={
            "only": road.evaluate.only,
            "topics": list(road.evaluate.topics),
            "precision": road.evaluate.precision,
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[made.output.key, made.trained.name, made.trained.run_id],
        code=_TELLING,
    )
    silent = len(found) - len(told)
    return run_stage(
        stage,
        workspace.stages,
        lambda folder: _tell(folder, workspace, made, told, silent, address),
    )


def _tell(
    folder: Path,
    workspace: Workspace,
    made: Made,
    told: "Sequence[Told]",
    silent: int,
    address: str | None,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.metrics.class_rates import accuracy_metric
    from sonoray.metrics.resampling import estimate
    from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
    from sonoray_jobs.evaluation.answer import pack_studies
    from sonoray_jobs.evaluation.answer_pool import answer_rows, features_of
    from sonoray_jobs.evaluation.modes.told_findings import ToldActor
    from sonoray_jobs.training.restore import load_trained

    road, model = made.road, made.located
    studies = [each.study for each in told]
    check_lengths(read_tokenizer(model.language), studies, road.model, judged)
    rows = answer_rows(
        pack_studies(studies),
        num_answers=sum(len(study.turns) for study in studies),
        actor=ToldActor,
        given={"load": partial(load_trained, model, road.evaluate.precision)},
        trained_in=road.train.precision,
        settings=road.evaluate,
        # no picture is read: what is stored gives the shapes alone
        features=features_of(workspace, made, keep="both"),
        address=address,
        what="ask the language model",
    )
    place = {study.study_id: number for number, study in enumerate(studies)}
    rows = sorted(rows, key=lambda row: place[row["study_id"]])
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    records = [to_record(row) for row in rows]
    topics = {}
    for topic in dict.fromkeys(record.topic for record in records):
        own = [record for record in records if record.topic == topic]
        patients = [record.patient_key for record in own]
        found = estimate(accuracy_metric(own), patients, _bootstrap(road))
        topics[topic] = found and found.to_json()
    named = [each for study in told for each in study.names_truth]
    return {
        "num_questions": len(records),
        "num_studies": len(studies),
        "num_silent": silent,
        "share_named": sum(named) / len(named),
        "topics": topics,
    }


def _closed(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], AnswerRecord]:
    """Closed answers by study and topic; of several the first."""
    found: dict[tuple[str, str], AnswerRecord] = {}
    for row in rows:
        record = to_record(row)
        if record.options:
            found.setdefault((record.study_id, record.topic), record)
    return found


def _write(
    folder: Path,
    workspace: Workspace,
    made: Made,
    split: str,
    values: dict[str, Any],
    tracking_uri: str | None,
) -> dict[str, Any]:
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results
    from sonoray_jobs.evaluation.modes.sources_report import sources_table

    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(sources_table(values).markdown()) + "\n", encoding="utf-8")
    write_json(as_json, values)
    shown = f"sources/{split}"
    headlines = {
        f"{shown}/{level}/{mode}": own[mode]["value"]
        for level, own in values["levels"].items()
        for mode in ("tower", "language", "whole")
        if mode in own
    }
    store = open_store(workspace, tracking_uri)
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, made.trained.run_id, headlines, artifacts)
    return {**values, "run_id": made.trained.run_id}


def _bootstrap(road: RoadConfig) -> Bootstrap:
    return Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
