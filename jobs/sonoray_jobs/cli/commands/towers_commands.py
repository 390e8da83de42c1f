"""The towers on the command line: pretraining them, and computing features with them."""

from typing import TYPE_CHECKING

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import AddressOption, DatasetOption, RunOption
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


@job_command(app, panel=PANEL)
def tune(
    *,
    dataset: DatasetOption = None,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Let the towers of a finished training learn from its answers, end to end.

    Says what it and the steps after it will take before it starts. A road takes the towers by
    their tuning's name, in bootstrap.tuned; features are then computed anew, and a model is trained
    on them.

    Examples:
        sonoray tune --run phantom-3f2a
        sonoray tune --run phantom-3f2a --set 'tune.towers=["clip"]' --set tune.steps=500
        sonoray tune --dataset busbra --config busbra --set tune.gpus=1
    """
    from sonoray_jobs.training.tuning import tune as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        run=run,
        address=address,
    )
