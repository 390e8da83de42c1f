"""Tell: patient columns in front of a trained model's closed questions, beside the plain prompt.

After XAI4LLM (arXiv 2405.06270), whose layered prompts tell a language model patient columns, as
numbers or in words, and what an explained model learned of them. Three ways on the same questions:
plain, told the patient's columns, told another patient's. Where the last two are alike, columns
changed the form of the prompt and told nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import Study, Task, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import asked_studies, closed_studies, training_answers
from sonoray_jobs.evaluation.structured.patient_columns import Columns, read_columns
from sonoray_jobs.evaluation.telling.teller import check_names, make_teller
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.telling.told_columns import Teller

_REPORT = ("told.md", "told.json")
_EXAMPLE = "example.txt"
"""A question with what a patient's record says; it stays in the workspace."""
_CODE = (
    "sonoray_jobs.evaluation.questions",
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.telling.told_columns",
    "sonoray_jobs.evaluation.structured.risk_fitting",
    "sonoray_jobs.evaluation.telling.tell_report",
    "sonoray_jobs.evaluation.telling.teller",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldColumns:
    """Answers with columns beside plain ones."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    remarks: Sequence[str] = ()
    """Of the columns."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.telling.told_table import told_table

        values = self.values
        lines = [
            f"{self.split}: closed questions of {values['training']} told patient columns "
            f"({', '.join(values['layers'])}; {values['style']}), beside plain ones and others' "
            "columns; accuracy, differences with 95 % intervals over patients",
            *told_table(values).text(),
            *(
                f"{topic}: not told {name}, it {reason}"
                for topic, own in values["leaks"].items()
                for name, reason in own.items()
            ),
        ]
        if silent := values["num_silent"]:
            lines.append(f"{silent} studies have no column that is told, and are asked plainly")
        lines.append(f"a question as it was told: {self.output.path / _EXAMPLE}")
        return [*lines, *self.remarks, f"all figures: {self.output.path / _REPORT[1]}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        told = {"split": self.split, "path": str(self.output.path), "remarks": list(self.remarks)}
        return {**told, **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    table: Path | None = None,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> ToldColumns:
    """Ask a split's closed questions plainly, with patient columns, and with another patient's.

    Args:
        workspace: where everything lies.
        road: the settings; section `tell` says what is told, `risk` from which columns.
        dataset: name of the dataset.
        split: whose studies are asked.
        table: a CSV of patient columns; by default the labels.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, no closed question is asked, there is no column, or
            a text with columns does not fit the model's context, or all studies are of one patient.
        ConfigError: `tell` names a column that is not there, or the training that `run` names is of
            another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    asked = closed_studies(asked_studies(output.path, made.road, split))
    settings = made.road.train
    everyone = iter_studies(output.path, split="train", only=settings.only, complete=False)
    training = list(everyone)
    every = read_columns(
        [*training, *asked],
        table,
        road.risk,
        dataset,
        iter_studies(output.path, complete=False),
    )
    check_names(road.tell, every)
    columns = every.only(road.risk.columns)
    teller, leaks = make_teller(
        output.path, road, dataset, split, table, columns, training, asked, settings.hold_out
    )
    stage = Stage(
        name=f"tell-{dataset}-{split}",
        config={
            "tell": road.tell.model_dump(mode="json"),
            "risk": road.risk.model_dump(mode="json"),
            "table": "" if table is None else sha256(table.read_bytes()).hexdigest(),
            "only": road.evaluate.only,
            "topics": list(road.evaluate.topics),
            "precision": road.evaluate.precision,
            "positive": dict(road.evaluate.positive_options),
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        found = _ask(folder, workspace, made, asked, teller, columns, address)
        return _write(folder, workspace, made, split, {**found, "leaks": leaks}, tracking_uri)

    result = run_stage(stage, workspace.stages, make)
    return ToldColumns(
        output=result, split=split, values=result.manifest["summary"], remarks=every.remarks
    )


def _ask(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    teller: "Teller",
    columns: Columns,
    address: str | None,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
    from sonoray_jobs.evaluation.answer_pool import answer_studies, features_of
    from sonoray_jobs.evaluation.predictions import to_record
    from sonoray_jobs.evaluation.telling.tell_report import (
        OTHER,
        PLAIN,
        TOLD,
        WAYS,
        judge_told,
    )
    from sonoray_jobs.evaluation.telling.told_columns import records_of_others
    from sonoray_jobs.training.restore import load_trained

    records = [columns.of_study.get(study.study_id, {}) for study in studies]
    others = records_of_others([study.patient_key for study in studies], records)
    ways = {
        PLAIN: list(studies),
        TOLD: list(map(teller.tell, studies, records)),
        OTHER: list(map(teller.tell, studies, others)),
    }
    for own in ways.values():
        check_lengths(read_tokenizer(made.located.language), own, made.road.model, judged)
    silent = sum(one == told for one, told in zip(ways[PLAIN], ways[TOLD], strict=True))
    if silent == len(studies):
        raise DataError(
            f"none of the {len(studies)} studies has a column to tell in front of a closed "
            "question; name columns with risk.columns, or give a CSV with --table"
        )
    rows = answer_studies(
        [replace(study, study_id=f"{way} {study.study_id}") for way in WAYS for study in ways[way]],
        load=partial(load_trained, made.located, made.road.evaluate.precision),
        trained_in=made.road.train.precision,
        settings=made.road.evaluate,
        features=features_of(workspace, made),
        address=address,
    )
    for row in rows:
        row["way"], _, row["study_id"] = row["study_id"].partition(" ")
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    answers = {way: [to_record(row) for row in rows if row["way"] == way] for way in WAYS}
    evaluate = made.road.evaluate
    bootstrap = Bootstrap(num_resamples=evaluate.bootstrap_samples, seed=evaluate.seed)
    learned = training_answers(made.output.path, made.road)
    values = judge_told(answers, learned, evaluate.positive_options, bootstrap)
    told = next(own for one, own in zip(ways[PLAIN], ways[TOLD], strict=True) if one != own)
    changed = [turn.question for turn in told.turns if turn.task is Task.CLOSED]
    (folder / _EXAMPLE).write_text(max(changed, key=len) + "\n", encoding="utf-8")
    return {
        **values,
        "training": made.trained.name,
        "layers": list(teller.settings.layers),
        "style": teller.settings.style,
        "num_silent": silent,
    }


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
    from sonoray_jobs.evaluation.telling.tell_report import ALL, WAYS
    from sonoray_jobs.evaluation.telling.told_table import told_table

    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(told_table(values).markdown()) + "\n", encoding="utf-8")
    write_json(as_json, values)
    shown = f"told/{split}"
    ways = values["topics"][ALL]["ways"]
    headlines = {f"{shown}/{way}": ways[way]["accuracy"]["value"] for way in WAYS}
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(open_store(workspace, tracking_uri), made.trained.run_id, headlines, artifacts)
    return {**values, "run_id": made.trained.run_id}
