"""What the subcommands share: their options, written once, and the way to add them to a job's own.

Reachable from `sonoray --help`, so nothing heavy is imported here.
"""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypedDict

import typer

from sonoray.errors import ConfigError
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

P = ParamSpec("P")

DEFAULT_WORKSPACE = Path(".sonoray")
_COMMON = "Options of every job"

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", help="Folder that holds all outputs.", rich_help_panel=_COMMON),
]
ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "--preset",
        metavar="NAME|PATH",
        help="Packaged configuration (tiny, base, paper, busbra, evidence) or a TOML file.",
        rich_help_panel=_COMMON,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key; repeatable. The value is TOML, as in train.num_workers=1 "
        "or train.stages.1.epochs=1 or model.clip.feature_layers=[-2]; text needs no quotes.",
        rich_help_panel=_COMMON,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved configuration as JSON and stop.",
        rich_help_panel=_COMMON,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Running Ray cluster to join; default RAY_ADDRESS, else a private Ray.",
        rich_help_panel=_COMMON,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_COMMON),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Ingested dataset; default: the road's.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option("--api-key-file", help="File that holds the API key.")
]


def parse_integers(option: str, text: str) -> tuple[int, ...]:
    """Read a list like `0,1,2`.

    Raises:
        ConfigError: it is none, or a number is negative.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} {text!r} is not a list of numbers; write it like 0,1,2")
    return tuple(map(int, parts))


class Common(TypedDict):
    """The arguments that every job's `run` takes."""

    workspace: "Workspace"
    road: "RoadConfig"
    address: str | None


def job_command(
    app: typer.Typer, *, makes_workspace: bool = False
) -> Callable[[Callable[Concatenate[Common, P], Result]], None]:
    """Register the decorated function as a subcommand with the options of every job.

    Only a command that brings data makes a workspace that does not exist: to the others it would
    be an empty one, which a slip of the keyboard named.

    typer reads a command's options from its signature, so the shared ones are written once, here,
    and joined to the signature of the function that calls the job.
    """

    def register(function: Callable[Concatenate[Common, P], Result]) -> None:
        def command(
            *,
            workspace: WorkspaceOption = DEFAULT_WORKSPACE,
            config: ConfigOption = "tiny",
            overrides: SetOption = None,
            dry_run: DryRunOption = False,
            address: AddressOption = None,
            as_json: JsonOption = False,
            **own: Any,  # noqa: ANN401 - what typer parsed for `function`
        ) -> None:
            from sonoray_jobs.road.config import load_road

            road = load_road(config, overrides or [])
            if dry_run:
                typer.echo(road.model_dump_json(indent=1))
                return
            from sonoray.workspace import Workspace

            opened = Workspace.open(workspace, create=makes_workspace)
            common = Common(workspace=opened, road=road, address=address)
            run: Callable[..., Result] = function
            # stdout is the result's alone, while Ray prints the raylet's remarks there
            with redirect_stdout(sys.stderr):
                result = run(common, **own)
            show(result, as_json=as_json)
            raise typer.Exit(getattr(result, "exit_code", 0))

        own_parameters = list(signature(function).parameters.values())[1:]
        shared_parameters = list(signature(command).parameters.values())[:-1]
        parameters = [*own_parameters, *shared_parameters]
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__doc__ = function.__doc__
        app.command(function.__name__)(command)

    return register


def show(result: Result, *, as_json: bool) -> None:
    """Print a job's result."""
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(result.lines()))
