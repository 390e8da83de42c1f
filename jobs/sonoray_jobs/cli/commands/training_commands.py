"""Training on the command line."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.towers_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()

AllowChangedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-changed",
        metavar="FIELD",
        help="Setting in which the training that train.resume names may differ; repeatable.",
    ),
]


@job_command(app, panel=PANEL)
def train(
    *,
    dataset: DatasetOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
    allow_changed: AllowChangedOption = None,
) -> Result:
    """Train both stages; run it again to resume.

    One MLflow run per training, whatever restarts.

    Examples:
        sonoray train
        sonoray train --set train.num_workers=1
        sonoray train --set train.resume=NAME --allow-changed train.stages.1.epochs
    """
    from sonoray_jobs.training.train import run

    allowed = (*road.train.allow_changed, *(allow_changed or ()))
    settings = road.train.model_copy(update={"allow_changed": allowed})
    return run(
        workspace=workspace,
        road=road.model_copy(update={"train": settings}),
        dataset=dataset or road.dataset,
        address=address,
    )
