"""The service on the command line: its start, and a question to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonoray.errors import ConfigError
from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.release_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetOption, KeyFileOption, RunOption
from sonoray_jobs.cli.usage import Commands
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

_AGAINST = "one,self-consistency"
app = typer.Typer()
_group = typer.Typer(cls=Commands)

app.add_typer(_group, name="audit-log", rich_help_panel=PANEL)


@job_command(app, panel=PANEL)
def serve(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder; default: the champion of "
            "the road's dataset.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on.", min=1, max=65535)
    ] = 8000,
    api_key_file: KeyFileOption = None,
    insecure_local: Annotated[
        bool, typer.Option("--insecure-local", help="Ask for no key; loopback only.")
    ] = False,
    adapters: Annotated[
        Path | None,
        typer.Option(
            "--adapters",
            help='TOML file of further models, as breast = "models:/NAME/VERSION"; looked at '
            "while the service runs.",
        ),
    ] = None,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Serve a registered model behind an OpenAI-compatible endpoint until Ctrl-C.

    A model whose digests differ from its manifest is refused.

    Examples:
        sonoray serve --api-key-file key.txt
        sonoray serve --model models:/llava-ultra-phantom/3 --insecure-local
        sonoray serve --run phantom-3f2a --api-key-file key.txt
        sonoray serve --api-key-file key.txt --adapters adapters.toml --set serve.max_models=4
    """
    from sonoray_jobs.outputs.registered import model_of
    from sonoray_jobs.service import serve

    usual = f"models:/{road.export.name_for(road.dataset)}@champion"
    return serve.run(
        workspace=workspace,
        road=road,
        model=model_of(workspace, model, run, usual=usual),
        host=host,
        port=port,
        api_key_file=api_key_file,
        insecure_local=insecure_local,
        adapters=adapters,
        address=address,
    )


@job_command(app, panel=PANEL)
def ask(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images or DICOM objects of one study.")
    ] = None,
    *,
    question: Annotated[str, typer.Option("--question", help="What to ask.")],
    study: Annotated[str | None, typer.Option("--study", help="Take a dataset's study.")] = None,
    study_uid: Annotated[
        str | None,
        typer.Option("--study-uid", help="Take a study of the service's DICOMweb server."),
    ] = None,
    dataset: DatasetOption = None,
    url: Annotated[
        str | None, typer.Option("--url", help="The service's URL; default: this machine's.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="Port of a service on this machine.", min=1, max=65535)
    ] = 8000,
    api_key_file: KeyFileOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Ask a running service about the images of one study.

    Prints the answer, and which images of the study it is based on.

    Examples:
        sonoray ask a.png b.png --question 病灶是良性还是恶性？
        sonoray ask loop.dcm --question 请描述超声所见。 --port 8001
        sonoray ask --study ID --dataset phantom --question 请描述超声所见。
        sonoray ask --study-uid 1.2.840.113619.2.1 --question 请描述超声所见。
    """
    from sonoray_jobs.service.ask import run

    return run(
        workspace=workspace,
        road=road,
        images=images or [],
        question=question,
        study=study,
        study_uid=study_uid,
        dataset=dataset or road.dataset,
        url=url or f"http://127.0.0.1:{port}/v1",
        api_key_file=api_key_file,
    )


@job_command(app, panel=PANEL)
def consult(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images or DICOM objects of one study.")
    ] = None,
    *,
    question: Annotated[
        str | None,
        typer.Option(
            "--question",
            help="What to ask about one study; without it, the closed questions of --split.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="An answer to choose among; repeat it for each."),
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Take a dataset's study.")] = None,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    max_studies: Annotated[
        int, typer.Option("--max-studies", min=1, help="Most studies of the split.")
    ] = 50,
    max_calls: Annotated[
        int, typer.Option("--max-calls", help="Most calls of the service for a question.")
    ] = 24,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", help="Most tokens for a question; default: any number."),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            help="general-practitioner, radiologist, specialist or assistant, beside the "
            "director; repeatable; default: all.",
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option("--against", help="What stands beside a split: one, self-consistency."),
    ] = _AGAINST,
    url: Annotated[
        str, typer.Option("--url", help="The service's URL.")
    ] = "http://127.0.0.1:8000/v1",
    api_key_file: KeyFileOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Have several roles of a running service answer together: they argue, vote, one decides.

    A general practitioner chooses specialists; they, a radiologist and an assistant, who is told
    the reports of the training studies that look most alike, say what they think; a director sums
    up, all vote, and he answers. No call is made whose cost might pass a cap, and each stands in
    the trace. On a split the same model stands beside it, asked once, and as often as the roles
    called: accuracy with paired intervals over patients, calls, tokens, time.

    Examples:
        sonoray consult a.png b.png --question 病灶是良性还是恶性？ --option 良性 --option 恶性
        sonoray consult --study ID --question 请描述超声所见。 --role radiologist --role specialist
        sonoray consult --dataset busbra --split test --max-studies 20 --max-calls 16
    """
    from sonoray_jobs.evaluation.roles import consult as job
    from sonoray_jobs.evaluation.roles.all_ways import Caps
    from sonoray_jobs.evaluation.roles.wordings import ROLES

    if question is not None and (split, max_studies, against) != ("test", 50, _AGAINST):
        raise ConfigError(
            "--split, --max-studies and --against are for a whole split; leave them out, or leave "
            "out --question"
        )
    caps = Caps(
        max_calls=max_calls,
        max_tokens=max_tokens,
        roles=tuple(roles or ROLES),
        against=tuple(filter(None, against.split(","))) if question is None else (),
    )
    return job.run(
        workspace=workspace,
        road=road,
        question=question,
        options=options or [],
        images=images or [],
        study=study,
        dataset=dataset or road.dataset,
        split=split,
        max_studies=max_studies,
        caps=caps,
        url=url,
        api_key_file=api_key_file,
    )


@_group.callback()
def _audit_log() -> None:
    """The log of who asked the service when, and how it ended.

    Examples:
        sonoray audit-log verify /srv/sonoray/audit
    """


@job_command(_group, panel="Commands")
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of serve.audit_log.")],
) -> Result:
    """Follow the chain of an audit log, and say where it breaks.

    Prints the lines and the last digest of every file, to be held against what was noted before.

    Examples:
        sonoray audit-log verify /srv/sonoray/audit
    """
    from sonoray_serve.keys.log_chain import verify as follow

    return follow(folder)
