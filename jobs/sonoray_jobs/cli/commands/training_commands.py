"""Training on the command line."""

from typing import TYPE_CHECKING

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.towers_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()


@job_command(app, panel=PANEL)
def train(
    *,
    dataset: DatasetOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Train both stages; run it again to resume.

    One MLflow run per training, whatever restarts.

    Examples:
        sonoray train
        sonoray train --set train.num_workers=1
    """
    from sonoray_jobs.training.train import run

    return run(workspace=workspace, road=road, dataset=dataset or road.dataset, address=address)
