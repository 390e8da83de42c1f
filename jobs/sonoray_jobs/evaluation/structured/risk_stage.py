"""A risk model fitted on training studies and judged on a split, as a stage that is kept.

`risk.json` is the model, `predictions.parquet` has of each judged study its risk and what each
column contributes, `risk.md` and `risk-report.json` hold numbers alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.choosing.held_out import is_held_out
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.structured.leaks import without_leaks
from sonoray_jobs.evaluation.structured.outcomes import read_outcomes
from sonoray_jobs.evaluation.structured.patient_columns import Columns, read_columns
from sonoray_jobs.evaluation.structured.risk_model import RiskModel, read_risk
from sonoray_jobs.road.config import RoadConfig

MODEL = "risk.json"
REPORT = ("risk.md", "risk-report.json")
PREDICTIONS = "predictions.parquet"
_CODE = (
    "sonoray_jobs.evaluation.structured.leaks",
    "sonoray_jobs.evaluation.structured.outcomes",
    "sonoray_jobs.evaluation.structured.risk_fitting",
    "sonoray_jobs.evaluation.structured.risk_report",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a risk model is made of."""

    training: Sequence[Study]
    judged: Sequence[Study]
    everything: Columns
    """All columns, of both."""
    columns: Columns
    """Those that are learned from; they do not tell the outcome."""
    truth: Mapping[str, bool]
    """By study id, of those with an outcome."""

    @property
    def patients(self) -> dict[str, str]:
        """By study id."""
        return {study.study_id: study.patient_key for study in (*self.training, *self.judged)}

    def outcomes(self, studies: Sequence[Study]) -> dict[str, bool]:
        """Of some of the studies."""
        ids = (study.study_id for study in studies)
        return {each: self.truth[each] for each in ids if each in self.truth}


def gather(dataset: Path, road: RoadConfig, split: str, table: Path | None, name: str) -> Material:
    """Read studies, columns and outcomes; what tells the outcome is left out.

    Args:
        dataset: folder of the dataset.
        road: section `risk`; `train.hold_out`, `train.only` and `evaluate.only` choose studies.
        split: whose studies are judged.
        table: of columns; by default the labels.
        name: of the dataset.

    Raises:
        DataError: see `patient_columns`; or the split is unknown or has nothing to judge.
    """
    if split not in SPLITS[1:]:
        raise DataError(f"split {split!r} is none to judge; choose {' or '.join(SPLITS[1:])}")
    settings = road.risk
    everyone = iter_studies(dataset, split="train", only=road.train.only, complete=False)
    training = [study for study in everyone if not is_held_out(study, road.train.hold_out)]
    judged = list(iter_studies(dataset, split=split, only=road.evaluate.only, complete=False))
    if not training or not judged:
        raise DataError(
            f"dataset {name!r} has {len(training)} training and {len(judged)} {split} studies; "
            "a risk needs both"
        )
    both = [*training, *judged]
    truth = read_outcomes(both, settings.outcome, settings.positive)
    everything = read_columns(both, table, settings, name, iter_studies(dataset, complete=False))
    everything = _covering(everything, judged, split, table)
    told = {study: str(value) for study, value in truth.items()}
    ids = {study.study_id for study in training}
    columns = without_leaks(everything, told, settings, ids).only(settings.columns)
    return Material(
        training=training, judged=judged, everything=everything, columns=columns, truth=truth
    )


def _covering(columns: Columns, judged: Sequence[Study], split: str, table: Path | None) -> Columns:
    """Remark how many judged studies a table says nothing of; refuse it where that is all."""
    lacking = sum(study.study_id not in columns.of_study for study in judged)
    if table is None or not lacking:
        return columns
    told = f"{table.name} tells nothing of {lacking} of {len(judged)} {split} studies"
    if lacking == len(judged):
        raise DataError(f"{told}: nothing can be judged; give their rows, or another --split")
    return replace(columns, remarks=[*columns.remarks, told])


def fit_on(material: Material, road: RoadConfig) -> RiskModel:
    """Fit a model on the training studies.

    Raises:
        DataError: an outcome has too few training patients.
    """
    from sonoray_jobs.evaluation.structured.risk_fitting import fit_risk

    truth = material.outcomes(material.training)
    if not truth:
        raise DataError(f"no training study has the outcome {road.risk.outcome!r}")
    return fit_risk(material.columns, truth, material.patients, road.risk)


def risk_stage(
    workspace: Workspace, road: RoadConfig, dataset: str, split: str, table: Path | None
) -> tuple[RiskModel, StageOutput, Material]:
    """Fit and judge, or take what was kept.

    Raises:
        DataError: see `gather` and `fit_on`; or no judged study has the outcome.
    """
    output = workspace.dataset(dataset)
    material = gather(output.path, road, split, table, dataset)
    if not material.outcomes(material.judged):
        raise DataError(f"no {split} study has the outcome {road.risk.outcome!r}")
    made = run_stage(
        Stage(
            name=f"risk-{dataset}-{split}",
            config={
                "risk": road.risk.model_dump(mode="json"),
                "train": road.train.model_dump(mode="json", include={"only", "hold_out"}),
                "only": road.evaluate.only,
                "table": "" if table is None else sha256(table.read_bytes()).hexdigest(),
                "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
            },
            inputs=[output.key],
            code=_CODE,
        ),
        workspace.stages,
        lambda folder: _make(folder, road, material),
    )
    return read_risk(made.path / MODEL), made, material


def _make(folder: Path, road: RoadConfig, material: Material) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray_jobs.evaluation.structured.risk_model import write_risk
    from sonoray_jobs.evaluation.structured.risk_report import (
        apply_risk,
        groups_table,
        judge_risk,
        rates_table,
        worth_table,
    )

    model = fit_on(material, road)
    write_risk(folder / MODEL, model)
    truth = material.outcomes(material.judged)
    judged = apply_risk(model, material.columns, truth, material.patients)
    rows = [
        {
            "study_id": each,
            "positive": truth[each],
            "risk": float(chance),
            "called": bool(called),
            "base": model.base,
            "contributions": list(
                model.contributions(material.columns.of_study.get(each, {})).items()
            ),
        }
        for each, chance, called in zip(judged.ids, judged.chance, judged.called, strict=True)
    ]
    schema = pa.schema(
        [
            ("study_id", pa.string()),
            ("positive", pa.bool_()),
            ("risk", pa.float64()),
            ("called", pa.bool_()),
            ("base", pa.float64()),
            ("contributions", pa.map_(pa.string(), pa.float64())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / PREDICTIONS)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values = judge_risk(model, judged, material.columns, material.everything, road.risk, bootstrap)
    markdown, as_json = (folder / name for name in REPORT)
    tables = (rates_table(values), worth_table(values), groups_table(values))
    text = "\n\n".join("\n".join(table.markdown()) for table in tables)
    markdown.write_text(text + "\n", encoding="utf-8")
    write_json(as_json, values)
    return values
