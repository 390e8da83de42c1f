"""A remote cluster on the command line: any other subcommand as a job there."""

from functools import partial
from typing import Annotated

import typer
from typer.core import TyperGroup

from sonoray.errors import ConfigError
from sonoray_jobs.cli.command import show
from sonoray_jobs.cli.options import JsonOption

app = typer.Typer()
PANEL = "Clusters"


@app.command("submit", rich_help_panel=PANEL)
def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Subcommand to run there.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS", help="Its own arguments, after --.")
    ] = None,
    *,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The cluster's dashboard, as in http://HOST:8265.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Stream the logs until the job ends.")] = True,
    dev: Annotated[
        bool, typer.Option("--dev", help="Ship the source that lies here over the installed one.")
    ] = False,
    on_worker: Annotated[
        bool,
        typer.Option(
            "--on-worker", help="Run the job's own process on a worker that has `driver`."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a subcommand as a job on a remote Ray cluster, with its logs and its exit status.

    Ctrl-C leaves the job running. A cluster with a token needs RAY_AUTH_MODE=token, and the token
    in RAY_AUTH_TOKEN or in the file RAY_AUTH_TOKEN_PATH. The job's own process runs on the head; on
    Kubernetes, where the head takes no work, give --on-worker.

    Examples:
        sonoray submit doctor --address http://10.0.0.5:8265
        sonoray submit train --address http://10.0.0.5:8265 -- --dataset busbra --config busbra
    """
    from sonoray_jobs.cluster.submit import run

    root = context.find_root().command
    assert isinstance(root, TyperGroup)
    jobs = [name for name in root.commands if name != "submit"]
    if job not in jobs:
        raise ConfigError(f"{job!r} is not a job; choose one of: {', '.join(jobs)}")
    # the job's log is what this command prints, but with --json stdout is the result's alone
    write = partial(typer.echo, nl=False, err=as_json)
    submission = run(
        job,
        arguments or [],
        address=address,
        wait=wait,
        dev=dev,
        on_worker=on_worker,
        write=write,
    )
    if as_json or not wait:
        show(submission, as_json=as_json)
