"""How a function that calls a job becomes a subcommand: it takes exactly what it declares.

A subcommand is a plain function whose parameters are its options, with two exceptions. A parameter
`workspace` stands for `--workspace`, and arrives opened. A parameter `road` stands for `--config`,
`--set` and `--dry-run`, and arrives validated; where the command has `--run`, and it names a
training, it is the road of that training. What a function does not declare, its command
refuses: an option that is accepted and ignored would be a lie. Every command has `--json`. Ruff's
ARG001 holds that what a job accepts it also reads.
"""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any

import typer

from sonoray_jobs.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_WORKSPACE,
    ConfigOption,
    DryRunOption,
    JsonOption,
    SetOption,
    WorkspaceOption,
)
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


def _option(name: str, annotation: Any, default: object) -> Parameter:  # noqa: ANN401 - Annotated
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_STANDS_FOR = {
    "workspace": [_option("workspace", WorkspaceOption, DEFAULT_WORKSPACE)],
    "road": [
        _option("config", ConfigOption, DEFAULT_CONFIG),
        _option("overrides", SetOption, None),
        _option("dry_run", DryRunOption, False),
    ],
}
_JSON = _option("as_json", JsonOption, False)


def job_command(
    app: typer.Typer, *, panel: str, name: str | None = None, makes_workspace: bool = False
) -> Callable[[Callable[..., Result]], None]:
    """Register the decorated function, which returns a job's result, as a subcommand.

    typer reads a command's options from its signature, so the shared ones are joined to it here.

    Args:
        app: where the command goes.
        panel: heading under which `sonoray --help` lists it.
        name: of the command; by default the function's.
        makes_workspace: whether it makes a workspace that does not exist. Only a command that
            brings data does: to the others it would be an empty one, which a slip of the keyboard
            named.
    """

    def register(function: Callable[..., Result]) -> None:
        declared = signature(function).parameters

        def command(*, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - what typer parsed
            if "road" in declared:
                road = _road(given)
                if given.pop("dry_run"):
                    named = {"dataset": given["dataset"]} if given.get("dataset") else {}
                    typer.echo(road.model_copy(update=named).model_dump_json(indent=1))
                    return
                given["road"] = road
            if "workspace" in declared:
                from sonoray.workspace import Workspace

                given["workspace"] = Workspace.open(given["workspace"], create=makes_workspace)
            run_and_show(lambda: function(**given), as_json=as_json)

        own = [each for name, each in declared.items() if name not in _STANDS_FOR]
        shared = [each for name in _STANDS_FOR if name in declared for each in _STANDS_FOR[name]]
        if "run" in declared:  # which of both names the settings has to be known
            shared = [
                each.replace(default=None) if each.name == "config" else each for each in shared
            ]
        parameters = [*own, *shared, _JSON]
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__doc__ = function.__doc__
        app.command(name or function.__name__, rich_help_panel=panel)(command)

    return register


def _road(given: dict[str, Any]) -> "RoadConfig":
    """The configuration that the options name, which are taken out; a training's under `--run`."""
    config, overrides = given.pop("config"), given.pop("overrides") or []
    run = given.get("run")
    if run is None:
        from sonoray_jobs.road.config import load_road

        return load_road(config or DEFAULT_CONFIG, overrides)
    from sonoray.errors import ConfigError
    from sonoray.workspace import Workspace
    from sonoray_jobs.outputs.named_runs import road_of_run

    if config is not None:
        raise ConfigError(
            f"--config {config} and --run {run}: a training brings its own settings; leave one out"
        )
    return road_of_run(Workspace.open(given["workspace"], create=False), run, overrides)


def run_and_show(run: Callable[[], Result], *, as_json: bool) -> None:
    """Call a job, print its result and leave with its exit code.

    stdout is the result's alone, while Ray prints the raylet's remarks there.
    """
    with redirect_stdout(sys.stderr):
        result = run()
    show(result, as_json=as_json)
    raise typer.Exit(getattr(result, "exit_code", 0))


def show(result: Result, *, as_json: bool) -> None:
    """Print a job's result."""
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(result.lines()))
