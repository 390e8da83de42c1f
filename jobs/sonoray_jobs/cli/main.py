"""The `sonoray` command: the rooms' subcommands put together, and the last word on failures.

A subcommand (`sonoray_jobs.cli.commands`) parses its options, resolves the configuration and
calls `run` of its job's module, which returns a frozen result with `lines()` for people and
`to_json()` for `--json`. Jobs are imported inside the subcommands: torch, ray, mlflow, transformers
and fastapi cost seconds, and `sonoray --help` has to answer in half a second.

Expected failures end in one line on stderr and exit code 2 (1 where a job ran and failed); they
are recognised through Ray's wrappers too, because most work happens in Ray tasks. Everything else
is a bug and keeps its traceback.
"""

import argparse
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from sonoray import __version__
from sonoray_jobs.cli.commands import (
    analysis_commands,
    cluster_commands,
    data_commands,
    evaluation_commands,
    kubernetes_commands,
    quarantine_commands,
    release_commands,
    road_commands,
    service_commands,
    student_commands,
    towers_commands,
    training_commands,
)
from sonoray_jobs.cli.usage import Commands

_ADVICE = re.compile(
    r"\bsonoray "
    r"(ingest|audit|bootstrap|embed|train|evaluate|compare|validate|runs|export|promote)\b"
)
"""A command that works in a workspace."""

app = typer.Typer(
    name="sonoray",
    cls=Commands,
    help="Ultrasound vision-language models on Ray: from images to a served assistant.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _room in (  # in the order of a road, which is that of `sonoray --help`
    road_commands,
    data_commands,
    quarantine_commands,
    towers_commands,
    training_commands,
    evaluation_commands,
    analysis_commands,
    student_commands,
    release_commands,
    service_commands,
    cluster_commands,
    kubernetes_commands,
):
    app.add_typer(_room.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sonoray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show debug logs and what workers print.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    for package in ("sonoray", "sonoray_jobs", "sonoray_serve", "llava_ultra"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        _quiet_libraries()


def _quiet_libraries() -> None:
    """Keep what libraries say about themselves away from the reader; errors still come through."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars too
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # a filter, because DeepSpeed sets its logger's level and handlers when it is imported
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `sonoray` command; always leaves through SystemExit or with a bug's traceback.

    Args:
        arguments: the command line without the program's name; by default that of the process.
    """
    try:
        _run(arguments)
    except SystemExit as ending:
        if ending.code:
            from sonoray_jobs.cluster.job_status import last_line

            if line := last_line(ending.code):
                typer.echo(line, err=True)
        raise


def _run(arguments: Sequence[str] | None) -> None:
    """Run a command, and end what is expected to fail with one line."""
    try:
        app(args=arguments, prog_name="sonoray")
    except Exception as error:
        from sonoray_jobs.cluster.failures import find_failure

        failure = find_failure(error)
        if failure is None:
            raise
        given = sys.argv[1:] if arguments is None else arguments
        typer.echo(f"error: {failure.message}{_elsewhere(failure.message, given)}", err=True)
        raise SystemExit(failure.exit_code) from None


def _elsewhere(message: str, arguments: Sequence[str]) -> str:
    """What a command that a message advises needs besides, where outputs lie in another place."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workspace")
    workspace = parser.parse_known_args(arguments)[0].workspace
    if workspace is None or "--workspace" in message or not _ADVICE.search(message):
        return ""
    return f" (and the same --workspace {shlex.quote(workspace)})"
