"""The towers on the command line: pretraining them, and computing features with them."""

from typing import TYPE_CHECKING

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import AddressOption, DatasetOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
PANEL = "Towers and training"


@job_command(app, panel=PANEL)
def bootstrap(
    *,
    dataset: DatasetOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Pretrain the tiny CLIP, SAM encoder and Chinese language model on a dataset.

    Each part is made once for a configuration and a dataset, and reused after that.

    Examples:
        sonoray bootstrap
        sonoray bootstrap --dataset busbra --config busbra
    """
    from sonoray_jobs.towers.bootstrap import run

    return run(workspace=workspace, road=road, dataset=dataset or road.dataset, address=address)


@job_command(app, panel=PANEL)
def embed(
    *,
    dataset: DatasetOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Compute the image features that the feature store lacks.

    Prints the size before it starts. Interrupted, it goes on where it stopped.

    Examples:
        sonoray embed
        sonoray embed --dataset busbra --config busbra
    """
    from sonoray_jobs.towers.embed import run

    return run(workspace=workspace, road=road, dataset=dataset or road.dataset, address=address)
