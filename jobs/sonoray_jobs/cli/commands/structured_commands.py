"""Patient columns on the command line: a risk model, its groups, columns in prompts, tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.evaluation_commands import PANEL
from sonoray_jobs.cli.options import DatasetOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()

TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="CSV of patient columns, with a column study_id or image; default: the labels.",
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="validation or test.")]


@job_command(app, panel=PANEL)
def risk(
    *,
    dataset: DatasetOption = None,
    split: SplitOption = "test",
    table: TableOption = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="ID", help="Explain the risk of this study.")
    ] = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Predict an outcome from patient columns, explain each prediction, and show whom it fails.

    A calibrated logistic regression learns from training patients alone; columns that tell the
    outcome are left out and named. AUC, calibration and false negatives with intervals, also by
    group: site, device, bands of age, whatever column is named.

    Examples:
        sonoray risk
        sonoray risk --dataset busbra --set 'risk.groups=["device","side"]'
        sonoray risk --table patients.csv --set 'risk.bands={age=[40,60]}' --study 3f2a
    """
    from sonoray_jobs.evaluation.structured import predict_risk as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        table=table,
        study=study,
    )
