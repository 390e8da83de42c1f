"""The quarantine on the command line: three commands in a group, since each takes other options."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.data_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetArgument
from sonoray_jobs.cli.usage import Commands
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
_group = typer.Typer(cls=Commands)
_COMMANDS = "Commands"

app.add_typer(_group, name="quarantine", rich_help_panel=PANEL)


@_group.callback()
def _quarantine() -> None:
    """Show what ingest rejected and why, or try again after files or limits were changed.

    Each of the three commands has its own --help.

    Examples:
        sonoray quarantine list busbra --reason unreadable
        sonoray quarantine locate kidney
        sonoray quarantine retry busbra --set ingest.images.max_pixels=50000000
    """


@job_command(_group, panel=_COMMANDS, name="list")
def list_rows(
    dataset: DatasetArgument,
    *,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Rows of this reason alone.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--show", metavar="N", help="Most rows; --json has all.", min=0)
    ] = 20,
    workspace: "Workspace",
) -> Result:
    """List what ingest rejected and why.

    First the number of rejects for each reason, then the rejects themselves.

    Examples:
        sonoray quarantine list busbra
        sonoray quarantine list busbra --reason unreadable --show 100
    """
    from sonoray_jobs.data.quarantine import list_rows

    return list_rows(workspace=workspace, dataset=dataset, reason=reason, show=rows)


@job_command(_group, panel=_COMMANDS)
def retry(
    dataset: DatasetArgument,
    *,
    address: AddressOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Ingest a dataset's source again and say what became of what was rejected.

    The source is read as it is now, with this configuration. The dataset's name moves to the new
    version only if that succeeds.

    Examples:
        sonoray quarantine retry busbra --set ingest.images.max_pixels=50000000
    """
    from sonoray_jobs.data.quarantine import retry

    return retry(workspace=workspace, road=road, dataset=dataset, address=address)


@job_command(_group, panel=_COMMANDS)
def locate(
    dataset: DatasetArgument,
    *,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Name the files of a private source, or the objects of a server, that were rejected.

    The rows of a private source have keyed hashes for names. This reads the source again, or asks
    the server what it has, and prints the names, which identify, on this terminal alone.

    Examples:
        sonoray quarantine locate kidney
        sonoray quarantine locate kidney --json
    """
    from sonoray_jobs.data.reject_names import locate

    return locate(workspace=workspace, road=road, dataset=dataset)
