"""Risk: an explained risk model from patient columns, and whom it fails.

After XAI4LLM (arXiv 2405.06270), which explains a model of tables to a language model and counts
bias and false negatives, and "Redefining digital health interfaces with LLMs" (arXiv 2310.03560),
whose assistant calls a risk model; both by their abstracts and what is public of them. The model is
a calibrated logistic regression (`risk_model`), learned from training patients alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.stages import StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.structured.risk_model import RiskModel
from sonoray_jobs.evaluation.structured.risk_stage import REPORT, Material, risk_stage
from sonoray_jobs.road.config import RoadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Risk:
    """A risk model, judged."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    explained: Mapping[str, Any] | None
    """One study's risk and contributions, where it was asked for."""
    remarks: Sequence[str] = ()
    """Of the columns."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.structured.risk_report import (
            groups_table,
            rates_table,
            remarks,
            worth_table,
        )

        values = self.values
        told = [
            f"{self.split}: risk of {values['positive']} ({values['outcome']}) from "
            f"{len(values['worth'])} columns, learned from {values['num_train']} training studies "
            f"({values['num_train_positive']} positive); called positive from "
            f"{values['threshold']:.3f}; 95 % intervals over patients",
            *rates_table(values).text(),
            f"missed: {values['num_missed']} of {values['num_positive']}",
            "",
            *worth_table(values).text(),
            "",
            *groups_table(values).text(),
            *remarks(values),
            *self.remarks,
            *(f"{name}: left out, it {reason}" for name, reason in values["left_out"].items()),
        ]
        if self.explained is not None:
            told += ["", *explanation(self.explained)]
        return [*told, f"all figures: {self.output.path / REPORT[1]}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        explained = {} if self.explained is None else {"explained": self.explained}
        told = {"split": self.split, "path": str(self.output.path), "remarks": list(self.remarks)}
        return {**told, **self.values, **explained}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    table: Path | None = None,
    study: str | None = None,
) -> Risk:
    """Fit a risk model on a dataset's training studies and judge it on a split.

    Args:
        workspace: has the dataset.
        road: section `risk` says what is predicted from which columns.
        dataset: name of the dataset.
        split: whose studies are judged.
        table: a CSV of patient columns; by default the labels.
        study: whose risk is explained.

    Raises:
        DataError: there is nothing to learn from or to judge, a column is unknown or tells the
            outcome, or the study is unknown.
    """
    workspace.require()
    model, made, material = risk_stage(workspace, road, dataset, split, table)
    values = made.manifest["summary"]
    explained = None if study is None else explain(model, material, study)
    return Risk(
        output=made,
        split=split,
        values=values,
        explained=explained,
        remarks=material.everything.remarks,
    )


def explain(model: RiskModel, material: Material, study: str) -> dict[str, Any]:
    """A study's risk, and what each column adds to it.

    Raises:
        DataError: there is no such study among the training and judged ones.
    """
    if study not in material.patients:
        raise DataError(
            f"study {study!r} is none of the {len(material.patients)} that are learned from or "
            f"judged, as {next(iter(material.patients))!r} is"
        )
    record = material.columns.of_study.get(study, {})
    return {
        "study": study,
        "risk": model.probability(record),
        "base": model.base,
        "columns": {
            name: {"value": record.get(name), "contribution": own}
            for name, own in model.contributions(record).items()
        },
    }


def explanation(told: Mapping[str, Any]) -> list[str]:
    """An explained risk as lines."""
    return [
        f"{told['study']}: risk {told['risk']:.3f}; log-odds {told['base']:+.2f} of anyone, and",
        *(
            f"  {own['contribution']:+.2f} {name} = "
            f"{'unknown' if own['value'] is None else own['value']}"
            for name, own in told["columns"].items()
        ),
    ]
