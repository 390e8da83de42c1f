"""The `sonoray` command: seventeen subcommands over the jobs, and the one place that prints.

A subcommand parses its options, resolves the configuration and calls `run` of its job's module,
which returns a frozen result with `lines()` for people and `to_json()` for `--json`. Jobs are
imported inside the subcommands: torch, ray, mlflow, transformers and fastapi cost seconds, and
`sonoray --help` has to answer in well under one (0.3 s measured).

Expected failures end in one line on stderr and exit code 2 (1 where a job ran and failed); they
are recognised through Ray's wrappers too, because most work happens in Ray tasks. Everything else
is a bug and keeps its traceback.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sonoray import __version__
from sonoray.errors import ConfigError
from sonoray_jobs.cli.ablation_command import ablate
from sonoray_jobs.cli.data_commands import audit, ingest, quarantine
from sonoray_jobs.cli.describe_command import describe
from sonoray_jobs.cli.options import (
    DEFAULT_WORKSPACE,
    AddressOption,
    Common,
    DatasetOption,
    JsonOption,
    KeyFileOption,
    WorkspaceOption,
    job_command,
    show,
)
from sonoray_jobs.cli.usage import Commands
from sonoray_jobs.results import Result

app = typer.Typer(
    name="sonoray",
    cls=Commands,
    help="Ultrasound vision-language models on Ray: from images to a served assistant.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    version: Annotated[
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


@app.command("doctor")
def doctor(
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, and a Ray worker's view of it, and name the fix of each failure.

    Exits with 1 if a check fails.

    Examples:
        sonoray doctor
        sonoray doctor --address 10.0.0.5:6379 --json
    """
    from sonoray_jobs.cluster.doctor import run

    report = run(workspace=workspace, address=address)
    show(report, as_json=as_json)
    raise typer.Exit(0 if report.healthy else 1)


@job_command(app, makes_workspace=True)
def demo(
    common: Common,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up.")] = False,
) -> Result:
    """Run the whole road on phantom studies: ingest, train, evaluate, serve and ask.

    A second run reuses what has not changed.

    Examples:
        sonoray demo
        sonoray demo --keep
    """
    from sonoray_jobs.demo import run

    return run(**common, keep=keep)


@job_command(app)
def phantom(
    common: Common,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the contact sheet and examples.")
    ] = None,
) -> Result:
    """Generate phantom studies and show some of them.

    Writes a contact sheet and the first studies with their texts.

    Examples:
        sonoray phantom --out phantom-examples
        sonoray phantom --set phantom.seed=7
    """
    from sonoray_jobs.data.phantom import run

    return run(**common, out=out)


@job_command(app)
def bootstrap(common: Common, *, dataset: DatasetOption = None) -> Result:
    """Pretrain the tiny CLIP, SAM encoder and Chinese language model on a dataset.

    Each part is made once for a configuration and a dataset, and reused after that.

    Examples:
        sonoray bootstrap
        sonoray bootstrap --dataset busbra --config busbra
    """
    from sonoray_jobs.towers.bootstrap import run

    return run(**common, dataset=dataset or common["road"].dataset)


@job_command(app)
def embed(common: Common, *, dataset: DatasetOption = None) -> Result:
    """Compute the image features that the feature store lacks.

    Prints the size before it starts. Interrupted, it goes on where it stopped.

    Examples:
        sonoray embed
        sonoray embed --dataset busbra --config busbra
    """
    from sonoray_jobs.towers.embed import run

    return run(**common, dataset=dataset or common["road"].dataset)


@job_command(app)
def train(common: Common, *, dataset: DatasetOption = None) -> Result:
    """Train both stages; run it again to resume.

    One MLflow run per training, whatever restarts.

    Examples:
        sonoray train
        sonoray train --set train.num_workers=1
    """
    from sonoray_jobs.training.train import run

    return run(**common, dataset=dataset or common["road"].dataset)


@job_command(app)
def evaluate(
    common: Common,
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    gallery: Annotated[
        int, typer.Option("--gallery", metavar="N", help="Studies to show with images.", min=0)
    ] = 6,
) -> Result:
    """Answer a split's questions and compare with the constant answer, with 95 % intervals.

    Intervals are clustered by patient. The gallery shows answers beside images; it stays in the
    workspace, as the predictions do.

    Examples:
        sonoray evaluate
        sonoray evaluate --dataset busbra --config busbra --split validation
    """
    from sonoray_jobs.evaluation.evaluate import run

    dataset = dataset or common["road"].dataset
    return run(**common, dataset=dataset, split=split, gallery=gallery)


@job_command(app)
def compare(
    common: Common,
    first: Annotated[str, typer.Argument(help="MLflow run id or name, or evaluation folder.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    *,
    split: Annotated[
        str | None, typer.Option("--split", help="Split of both; default: the folder's, else test.")
    ] = None,
    disagreements: Annotated[
        int,
        typer.Option("--show", metavar="N", help="Disagreements to list, with answers.", min=0),
    ] = 0,
) -> Result:
    """Compare two evaluations question by question: differences, intervals and p values.

    A difference is second minus first, resampled over patients. --show prints patients' texts.

    Examples:
        sonoray compare phantom-3f2a phantom-91bc --show 5
        sonoray compare .sonoray/stages/evaluate-A .sonoray/stages/evaluate-B --json
    """
    from sonoray_jobs.evaluation.compare import run

    return run(**common, first=first, second=second, split=split, show=disagreements)


job_command(app, makes_workspace=True)(ingest)
job_command(app)(audit)
job_command(app)(quarantine)
app.command("describe")(describe)
app.command("ablate")(ablate)


@job_command(app)
def export(common: Common, *, dataset: DatasetOption = None) -> Result:
    """Write the trained model with its manifest, register it in MLflow and move the alias.

    The manifest pins every part by its digest.

    Examples:
        sonoray export
        sonoray export --dataset busbra --config busbra
    """
    from sonoray_jobs.release.export import run

    return run(**common, dataset=dataset or common["road"].dataset)


@job_command(app)
def serve(
    common: Common,
    *,
    model: Annotated[
        str, typer.Option("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder.")
    ] = "models:/llava-ultra@champion",
    host: Annotated[str, typer.Option("--host", help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on.", min=1, max=65535)
    ] = 8000,
    api_key_file: KeyFileOption = None,
    insecure_local: Annotated[
        bool, typer.Option("--insecure-local", help="Ask for no key; loopback only.")
    ] = False,
) -> Result:
    """Serve a registered model behind an OpenAI-compatible endpoint until Ctrl-C.

    A model whose digests differ from its manifest is refused.

    Examples:
        sonoray serve --api-key-file key.txt
        sonoray serve --model models:/llava-ultra/3 --insecure-local
    """
    from sonoray_jobs.service.serve import run

    return run(
        **common,
        model=model,
        host=host,
        port=port,
        api_key_file=api_key_file,
        insecure_local=insecure_local,
    )


@job_command(app)
def ask(
    common: Common,
    images: Annotated[list[Path] | None, typer.Argument(help="Images of one study.")] = None,
    *,
    question: Annotated[str, typer.Option("--question", help="What to ask.")],
    study: Annotated[str | None, typer.Option("--study", help="Take a dataset's study.")] = None,
    dataset: DatasetOption = None,
    url: Annotated[
        str, typer.Option("--url", help="The service's base URL.")
    ] = "http://127.0.0.1:8000/v1",
    api_key_file: KeyFileOption = None,
) -> Result:
    """Ask a running service about the images of one study.

    Prints the answer, and which images of the study it is based on.

    Examples:
        sonoray ask a.png b.png --question 病灶是良性还是恶性？
        sonoray ask --study ID --dataset phantom --question 请描述超声所见。
    """
    from sonoray_jobs.service.ask import run

    return run(
        **common,
        images=images or [],
        question=question,
        study=study,
        dataset=dataset or common["road"].dataset,
        url=url,
        api_key_file=api_key_file,
    )


@app.command("submit")
def submit(
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
) -> None:
    """Run a subcommand as a job on a remote Ray cluster, with its logs and its exit status.

    Ctrl-C leaves the job running. A cluster with a token needs RAY_AUTH_MODE=token, and the token
    in RAY_AUTH_TOKEN or in the file RAY_AUTH_TOKEN_PATH.

    Examples:
        sonoray submit doctor --address http://10.0.0.5:8265
        sonoray submit train --address http://10.0.0.5:8265 -- --dataset busbra --config busbra
    """
    from sonoray_jobs.cluster.submit import run

    jobs = [info.name for info in app.registered_commands if info.name and info.name != "submit"]
    if job not in jobs:
        raise ConfigError(f"{job!r} is not a job; choose one of: {', '.join(jobs)}")
    write = partial(typer.echo, nl=False)
    submission = run(job, arguments or [], address=address, wait=wait, dev=dev, write=write)
    if not wait:
        typer.echo(submission.submission_id)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `sonoray` command; always leaves through SystemExit or with a bug's traceback.

    Args:
        arguments: the command line without the program's name; by default that of the process.
    """
    try:
        app(args=arguments, prog_name="sonoray")
    except Exception as error:
        from sonoray_jobs.cluster.failures import find_failure

        failure = find_failure(error)
        if failure is None:
            raise
        typer.echo(f"error: {failure.message}", err=True)
        raise SystemExit(failure.exit_code) from None
