"""The first two commands of a new user: the whole road as a demo, and the check before it."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import DEFAULT_WORKSPACE, AddressOption, WorkspaceOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
PANEL = "Begin here"


@job_command(app, panel=PANEL, makes_workspace=True)
def demo(
    *,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up.")] = False,
) -> Result:
    """Run the whole road on phantom studies: ingest, train, evaluate, serve and ask.

    A second run reuses what has not changed.

    Examples:
        sonoray demo
        sonoray demo --keep
    """
    from sonoray_jobs.demo import run

    return run(workspace=workspace, road=road, address=address, keep=keep)


@job_command(app, panel=PANEL)
def doctor(
    *,
    folder: WorkspaceOption = DEFAULT_WORKSPACE,
    address: AddressOption = None,
) -> Result:
    """Check this machine, and a Ray worker's view of it, and name the fix of each failure.

    Exits with 1 if a check fails.

    Examples:
        sonoray doctor
        sonoray doctor --address 10.0.0.5:6379 --json
    """
    from sonoray_jobs.cluster.doctor import run

    return run(workspace=folder, address=address)
