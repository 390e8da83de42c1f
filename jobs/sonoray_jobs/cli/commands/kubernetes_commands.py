"""Kubernetes on the command line: a site's manifests, and what runs of them on a cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sonoray.errors import ConfigError
from sonoray_jobs.cli.command import job_command, show
from sonoray_jobs.cli.commands.cluster_commands import PANEL
from sonoray_jobs.cli.options import JsonOption
from sonoray_jobs.cli.usage import Commands, usage_problem
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
    from sonoray_jobs.cluster.kubernetes.render_site import Rendered

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
    typer.Argument(metavar="[PART]...", help="platform, cluster, service, schedule; default: all."),
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


@_group.command("render", rich_help_panel=_COMMANDS)
def render_site(
    context: typer.Context,
    *,
    site: SiteOption,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for a kustomize tree; default: stdout.")
    ] = None,
) -> None:
    """Check a site and print its manifests, or write them as a kustomize tree.

    No cluster is asked.

    Examples:
        sonoray k8s render --site dev-cpu
        sonoray k8s render --site hospital.toml --out manifests
    """
    from sonoray_jobs.cluster.kubernetes.kustomize import overlay_files, write_files
    from sonoray_jobs.cluster.kubernetes.render_site import to_yaml

    rendered = _rendered(site, accepts=_accepts(context))
    if out is None:
        typer.echo(to_yaml(rendered.objects), nl=False)
        return
    changed = write_files(out, overlay_files(rendered))
    typer.echo("\n".join(f"wrote {out / path}" for path in changed) or "all files are as they were")


@_group.command("diff", rich_help_panel=_COMMANDS)
def diff_site(
    context: typer.Context,
    parts: PartsArgument = None,
    *,
    site: SiteOption,
    manifests: ManifestsOption = None,
    kube_context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an apply would change, field by field; nothing is changed.

    Examples:
        sonoray k8s diff --site hospital.toml
        sonoray k8s diff service --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.apply_site import diff

    _, objects = _chosen(site, parts, manifests, _accepts(context))
    show(diff(connect(kube_context), objects), as_json=as_json)


@_group.command("apply", rich_help_panel=_COMMANDS)
def apply_site(
    context: typer.Context,
    parts: PartsArgument = None,
    *,
    site: SiteOption,
    manifests: ManifestsOption = None,
    kube_context: ContextOption = None,
    wait: WaitOption = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Check everything, apply it on the server, and wait until it is ready.

    Mistakes and what the cluster lacks (operator, Secrets) are refused before anything is applied.

    Examples:
        sonoray k8s apply platform --site hospital.toml
        sonoray k8s apply --site hospital.toml --wait 3600
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.apply_site import apply

    rendered, objects = _chosen(site, parts, manifests, _accepts(context))
    done = apply(connect(kube_context), rendered.site, objects, wait_s=wait)
    show(done, as_json=as_json)


@job_command(_group, panel=_COMMANDS, name="status")
def site_status(*, site: SiteOption, kube_context: ContextOption = None) -> Result:
    """Show how everything of a site stands, with what the cluster warns of.

    Exits with 1 if something is not as it should be.

    Examples:
        sonoray k8s status --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.site_status import status
    from sonoray_jobs.cluster.kubernetes.site import load_site

    return status(connect(kube_context), load_site(site)[0].namespace)


@_group.command("submit", rich_help_panel=_COMMANDS)
def submit_job(
    context: typer.Context,
    step: Annotated[str, typer.Argument(metavar="STEP", help="A job of the site, such as train.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS", help="More arguments, after --.")
    ] = None,
    *,
    site: SiteOption,
    kube_context: ContextOption = None,
    wait: Annotated[bool, typer.Option(help="Print the log until the job ends.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Start a step on a Ray cluster of its own, print its log, end with its exit status.

    Ctrl-C and a closed lid leave the job running; `sonoray k8s logs` finds it again.

    Examples:
        sonoray k8s submit train --site hospital.toml
        sonoray k8s submit train --site hospital.toml -- --set train.num_workers=1
    """
    from sonoray_jobs.cluster.kubernetes.checks.problems import require_sound
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.job_runs import named_run, submit

    accepts = _accepts(context)
    rendered = _rendered(site, accepts=accepts)
    if step not in rendered.jobs:
        known = ", ".join(rendered.jobs) or "none"
        raise ConfigError(f"{step!r} is no job of {site}; its jobs: {known}")
    job = named_run(rendered.jobs[step], arguments or [])
    platform = rendered.parts["platform"]
    require_sound([*platform, job], accepts)
    maps = [each for each in platform if each["kind"] == "ConfigMap"]
    write = partial(typer.echo, nl=False, err=as_json)
    run = submit(connect(kube_context), job, maps, wait=wait, write=write)
    if as_json or not wait:
        show(run, as_json=as_json)


@_group.command("logs", rich_help_panel=_COMMANDS)
def job_logs(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its name, or a step: the newest.")],
    *,
    site: SiteOption,
    kube_context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a job's log from its beginning, and end as the job ends.

    Examples:
        sonoray k8s logs train --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.job_runs import find_run, follow
    from sonoray_jobs.cluster.kubernetes.site import load_site

    api = connect(kube_context)
    run = find_run(api, load_site(site)[0].namespace, job)
    write = partial(typer.echo, nl=False, err=as_json)
    ended = follow(api, run, write)
    if as_json:
        show(ended, as_json=as_json)


@_group.command("delete", rich_help_panel=_COMMANDS)
def delete_parts(
    what: Annotated[
        list[str], typer.Argument(metavar="PART|JOB...", help="Parts of the site, or jobs by name.")
    ],
    *,
    site: SiteOption,
    kube_context: ContextOption = None,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete the volumes of the platform too: the data.")
    ] = False,
    wait: WaitOption = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Delete parts of a site or jobs; volumes, namespace and Secrets stay.

    Examples:
        sonoray k8s delete service --site hospital.toml
        sonoray k8s delete train-20260101-120000 --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.job_runs import find_run
    from sonoray_jobs.cluster.kubernetes.live.remove_parts import remove
    from sonoray_jobs.cluster.kubernetes.render_site import PARTS

    api, rendered = connect(kube_context), _rendered(site)
    objects: list[Object] = []
    for part in PARTS:
        if part in what:
            objects += rendered.parts.get(part, [])
    for name in [each for each in what if each not in PARTS]:
        run = find_run(api, rendered.site.namespace, name)
        place = {"name": run.name, "namespace": run.namespace}
        objects.append({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": place})
    show(remove(api, objects, volumes=volumes, wait_s=wait), as_json=as_json)


@_group.command("rollback", rich_help_panel=_COMMANDS)
def roll_back(
    revision: Annotated[
        int | None, typer.Argument(metavar="[REVISION]", help="By default the one before.")
    ] = None,
    *,
    site: SiteOption,
    kube_context: ContextOption = None,
    wait: WaitOption = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Apply an earlier revision again: image, model, sizes and settings as they were then.

    Data, MLflow's tables and Secrets stay as they are.

    Examples:
        sonoray k8s rollback --site hospital.toml
        sonoray k8s rollback 12 --site hospital.toml
    """
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect
    from sonoray_jobs.cluster.kubernetes.live.apply_site import rollback
    from sonoray_jobs.cluster.kubernetes.site import load_site

    done = rollback(connect(kube_context), load_site(site)[0], revision, wait_s=wait)
    show(done, as_json=as_json)


def _rendered(
    site: str, *, accepts: Callable[[str, Sequence[str]], str] | None = None
) -> "Rendered":
    """A site's manifests; checked where `accepts` is given."""
    from sonoray_jobs.cluster.kubernetes.checks.problems import require_sound
    from sonoray_jobs.cluster.kubernetes.render_site import render
    from sonoray_jobs.cluster.kubernetes.site import load_site

    rendered = render(*load_site(site))
    if accepts is not None:
        require_sound(rendered.objects, accepts)
    return rendered


def _chosen(
    site: str,
    parts: list[str] | None,
    manifests: Path | None,
    accepts: Callable[[str, Sequence[str]], str],
) -> tuple["Rendered", "list[Object]"]:
    """The objects that are meant, checked."""
    from sonoray_jobs.cluster.kubernetes.checks.problems import require_sound
    from sonoray_jobs.cluster.kubernetes.render_site import PARTS, read_manifests

    rendered = _rendered(site, accepts=accepts)
    if manifests is not None:
        if parts:
            raise ConfigError(f"--manifests {manifests} and {' '.join(parts)}: leave one out")
        objects = read_manifests(manifests)
        require_sound(objects, accepts)
        return rendered, objects
    for part in parts or []:
        if part not in PARTS:
            raise ConfigError(f"{part!r} is no part; choose from: {', '.join(PARTS)}")
        if part not in rendered.parts:
            raise ConfigError(f"{site} has no {part}; set {part}.enabled = true or schedule.cron")
    wanted = [part for part in PARTS if not parts or part in parts]
    return rendered, [each for part in wanted for each in rendered.parts.get(part, [])]


def _accepts(context: typer.Context) -> Callable[[str, Sequence[str]], str]:
    """What says whether a subcommand takes its arguments: the command line itself."""
    root: Any = context.find_root().command
    assert isinstance(root, TyperGroup)

    def accepts(name: str, arguments: Sequence[str]) -> str:
        if name not in root.commands:
            return f"there is no command {name!r}"
        return usage_problem(root.commands[name], name, arguments)

    return accepts
