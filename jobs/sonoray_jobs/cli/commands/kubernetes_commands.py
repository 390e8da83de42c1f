"""Kubernetes on the command line: a site's manifests, and what runs of them on a cluster."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sonoray_jobs.cli.command import job_command, show
from sonoray_jobs.cli.commands.cluster_commands import PANEL
from sonoray_jobs.cli.options import JsonOption
from sonoray_jobs.cli.usage import Commands, accepts
from sonoray_jobs.results import Result

app = typer.Typer()
_group = typer.Typer(cls=Commands)
_COMMANDS = "Commands"

app.add_typer(_group, name="k8s", rich_help_panel=PANEL)

SiteOption = Annotated[
    str,
    typer.Option(
        "--site",
        metavar="NAME|PATH",
        envvar="SONORAY_SITE",
        help="A site's TOML file, or a packaged one (dev-cpu, gpu-prod).",
    ),
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; default: its current.")
]
ManifestsOption = Annotated[
    Path | None,
    typer.Option(
        "--manifests",
        metavar="PATH",
        help="YAML of your own in place of the site's: a file or a folder.",
    ),
]
PartsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PART]", help="platform, cluster, service, schedule; default: all."),
]
WaitOption = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Time to become ready; 0 does not wait.")
]


@_group.callback()
def _k8s() -> None:
    """Run SonoRay on Kubernetes: everything follows from one site file.

    Each command has its own --help. docs/kubernetes.md goes the whole way.

    Examples:
        sonoray k8s render --site hospital.toml --out manifests
        sonoray k8s diff --site hospital.toml
        sonoray k8s apply --site hospital.toml
        sonoray k8s submit train --site hospital.toml
    """


@job_command(_group, panel=_COMMANDS)
def render(
    *,
    site: SiteOption,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for a kustomize tree; default: stdout.")
    ] = None,
) -> Result:
    """Check a site and print its manifests, or write them as a kustomize tree.

    No cluster is asked.

    Examples:
        sonoray k8s render --site dev-cpu
        sonoray k8s render --site hospital.toml --out manifests
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import render_site

    return render_site(site=site, out=out, accepts=accepts)


@job_command(_group, panel=_COMMANDS)
def diff(
    parts: PartsArgument = None,
    *,
    site: SiteOption,
    manifests: ManifestsOption = None,
    context: ContextOption = None,
) -> Result:
    """Show what an apply would change, field by field.

    Nothing is changed: the server itself says what would come of it.

    Examples:
        sonoray k8s diff --site hospital.toml
        sonoray k8s diff service --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import diff_parts

    return diff_parts(
        site=site, parts=parts or (), manifests=manifests, context=context, accepts=accepts
    )


@job_command(_group, panel=_COMMANDS)
def apply(
    parts: PartsArgument = None,
    *,
    site: SiteOption,
    manifests: ManifestsOption = None,
    context: ContextOption = None,
    wait: WaitOption = 1800.0,
) -> Result:
    """Check everything, apply it on the server, and wait until it is ready.

    Mistakes and what the cluster lacks (operator, Secrets) are refused before anything is applied.

    Examples:
        sonoray k8s apply platform --site hospital.toml
        sonoray k8s apply --site hospital.toml --wait 3600
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import apply_parts

    return apply_parts(
        site=site,
        parts=parts or (),
        manifests=manifests,
        context=context,
        wait_s=wait,
        accepts=accepts,
    )


@job_command(_group, panel=_COMMANDS)
def status(*, site: SiteOption, context: ContextOption = None) -> Result:
    """Show how everything of a site stands, with what the cluster warns of.

    Exits with 1 if something is not as it should be; what begins has ten minutes.

    Examples:
        sonoray k8s status --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import show_status

    return show_status(site=site, context=context)


@_group.command("submit", rich_help_panel=_COMMANDS)
def submit(
    step: Annotated[str, typer.Argument(metavar="STEP", help="A job of the site, such as train.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS", help="More arguments, after --.")
    ] = None,
    *,
    site: SiteOption,
    context: ContextOption = None,
    follow: Annotated[bool, typer.Option(help="Print the log until the job ends.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Start a step on a Ray cluster of its own, print its log, end with its exit status.

    Ctrl-C and a closed lid leave the job running; `sonoray k8s logs` finds it again.

    Examples:
        sonoray k8s submit train --site hospital.toml
        sonoray k8s submit train --site hospital.toml -- --set train.num_workers=1
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import submit_step

    run = submit_step(
        site=site,
        step=step,
        arguments=arguments or (),
        context=context,
        wait=follow,
        accepts=accepts,
        # the job's log is what this command prints, but with --json stdout is the result's alone
        write=partial(typer.echo, nl=False, err=as_json),
    )
    if as_json or not follow:
        show(run, as_json=as_json)


@_group.command("logs", rich_help_panel=_COMMANDS)
def logs(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its name, or a step: the newest.")],
    *,
    site: SiteOption,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a job's log from its beginning.

    Ends as the job ends, with its exit status.

    Examples:
        sonoray k8s logs train --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import follow_job

    write = partial(typer.echo, nl=False, err=as_json)
    ended = follow_job(site=site, job=job, context=context, write=write)
    if as_json:
        show(ended, as_json=as_json)


@job_command(_group, panel=_COMMANDS)
def delete(
    what: Annotated[
        list[str], typer.Argument(metavar="PART|JOB", help="Parts of the site, or jobs by name.")
    ],
    *,
    site: SiteOption,
    context: ContextOption = None,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete the volumes of the platform too: the data.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=1, help="Time for all to be gone."),
    ] = 600.0,
) -> Result:
    """Delete parts of a site, or jobs.

    Volumes, namespace and Secrets stay, the volumes unless --volumes is given. What runs Pods goes
    first, and the rest when they have ended.

    Examples:
        sonoray k8s delete service --site hospital.toml
        sonoray k8s delete train-20260101-120000 --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import delete_parts

    return delete_parts(site=site, what=what, context=context, volumes=volumes, wait_s=wait)


@job_command(_group, panel=_COMMANDS)
def rollback(
    revision: Annotated[
        int | None, typer.Argument(metavar="[REVISION]", help="By default the one before.")
    ] = None,
    *,
    site: SiteOption,
    context: ContextOption = None,
    wait: WaitOption = 1800.0,
) -> Result:
    """Apply an earlier revision again: image, model, sizes and settings as they were then.

    Data, MLflow's tables and Secrets stay as they are; `sonoray k8s history` lists the revisions.

    Examples:
        sonoray k8s rollback --site hospital.toml
        sonoray k8s rollback 12 --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import roll_back

    return roll_back(site=site, revision=revision, context=context, wait_s=wait)


@job_command(_group, panel=_COMMANDS)
def history(*, site: SiteOption, context: ContextOption = None) -> Result:
    """List what was applied when, with image and model.

    These are the revisions that `sonoray k8s rollback` can go back to; the last one is the newest.

    Examples:
        sonoray k8s history --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.site_commands import show_history

    return show_history(site=site, context=context)
