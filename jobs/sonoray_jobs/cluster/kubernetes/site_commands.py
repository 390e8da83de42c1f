"""What the commands of `sonoray k8s` do: from a site's name to what became of it.

Manifests are checked here before any cluster is asked. Whether `sonoray` accepts an entrypoint only
the command line knows, which hands in `accepts`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.kustomize import overlay_files, write_files
from sonoray_jobs.cluster.kubernetes.live.api_server import connect
from sonoray_jobs.cluster.kubernetes.live.apply_site import (
    Applied,
    Difference,
    apply,
    diff,
    rollback,
)
from sonoray_jobs.cluster.kubernetes.live.contents import maps_of, part_of
from sonoray_jobs.cluster.kubernetes.live.job_runs import (
    JobRun,
    find_run,
    follow,
    named_run,
    submit,
)
from sonoray_jobs.cluster.kubernetes.live.remove_parts import Removed, remove
from sonoray_jobs.cluster.kubernetes.live.revisions import (
    History,
    history,
    keep_revision,
    latest_revision,
)
from sonoray_jobs.cluster.kubernetes.live.site_status import SiteStatus, status
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.command_checks import Accepts
from sonoray_jobs.cluster.kubernetes.refusals.problems import require_sound
from sonoray_jobs.cluster.kubernetes.render_site import PARTS, Rendered, render
from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_jobs.cluster.kubernetes.yaml_files import in_order, read_manifests, to_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedSite:
    """A site's manifests, and which files were written."""

    objects: tuple[Object, ...]
    written: tuple[str, ...] | None
    """None where they are printed."""

    def lines(self) -> list[str]:
        """The YAML, or the files."""
        if self.written is None:
            return to_yaml(list(self.objects)).rstrip("\n").split("\n")
        return [f"wrote {path}" for path in self.written] or ["all files are as they were"]

    def to_json(self) -> dict[str, Any]:
        """The same for a script."""
        return {"objects": list(self.objects), "written": self.written}


def render_site(*, site: str, out: Path | None, accepts: Accepts) -> RenderedSite:
    """Check a site; write its kustomize tree where `out` is a folder."""
    rendered = _rendered(site, accepts)
    written = None
    if out is not None:
        written = tuple(str(out / path) for path in write_files(out, overlay_files(rendered)))
    return RenderedSite(objects=tuple(rendered.objects), written=written)


def diff_parts(
    *,
    site: str,
    parts: Sequence[str],
    manifests: Path | None,
    context: str | None,
    accepts: Accepts,
) -> Difference:
    """Find out what an apply would change."""
    rendered, objects, whole = _chosen(site, parts, manifests, accepts)
    return diff(connect(context), rendered.site, objects, whole)


def apply_parts(
    *,
    site: str,
    parts: Sequence[str],
    manifests: Path | None,
    context: str | None,
    wait_s: float,
    accepts: Accepts,
) -> Applied:
    """Apply parts of a site, or manifests of somebody else, and wait until they are ready."""
    rendered, objects, whole = _chosen(site, parts, manifests, accepts)
    return apply(connect(context), rendered.site, objects, parts=whole, wait_s=wait_s)


def show_status(*, site: str, context: str | None) -> SiteStatus:
    """Read how a site stands."""
    return status(connect(context), load_site(site)[0].namespace)


def submit_step(
    *,
    site: str,
    step: str,
    arguments: Sequence[str],
    context: str | None,
    wait: bool,
    accepts: Accepts,
    write: Callable[[str], None],
) -> JobRun:
    """Start a step as a RayJob and, with `wait`, print its log to the end.

    Raises:
        ConfigError: the site has no such job, or its arguments are wrong; nothing was applied.
        JobFailedError: it failed; carries its exit code.
    """
    rendered = _rendered(site, accepts)
    if step not in rendered.jobs:
        known = ", ".join(rendered.jobs) or "none"
        raise ConfigError(f"{step!r} is no job of {site}; its jobs: {known}")
    job = named_run(rendered.jobs[step], arguments)
    platform = rendered.parts["platform"]
    require_sound([*platform, job], accepts)
    maps = _maps_of([job], platform)
    return submit(connect(context), job, maps, wait=wait, write=write)


def follow_job(*, site: str, job: str, context: str | None, write: Callable[[str], None]) -> JobRun:
    """Print a job's log to its end; see `submit_step`."""
    api = connect(context)
    return follow(api, find_run(api, load_site(site)[0].namespace, job), write)


def delete_parts(
    *, site: str, what: Sequence[str], context: str | None, volumes: bool, wait_s: float
) -> Removed:
    """Delete parts of a site, and jobs by name.

    A part that the site file no longer has is deleted as it was applied last.
    """
    api, rendered = connect(context), _rendered(site)
    parts = {each for each in what if each in PARTS}
    objects: list[Object] = []
    for part in PARTS:
        if part in parts:
            there = latest_revision(api, rendered.site)[1]
            objects += rendered.parts.get(part) or [each for each in there if part_of(each) == part]
    for name in [each for each in what if each not in PARTS]:
        run = find_run(api, rendered.site.namespace, name)
        place = {"name": run.name, "namespace": run.namespace}
        objects.append({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": place})
    removed = remove(api, objects, volumes=volumes, wait_s=wait_s)
    if parts and removed.names:
        keep_revision(api, rendered.site, [], parts)
    return removed


def roll_back(*, site: str, revision: int | None, context: str | None, wait_s: float) -> Applied:
    """Apply an earlier revision again."""
    rendered = _rendered(site)
    standing = [each for part in rendered.parts.values() for each in part]
    return rollback(connect(context), rendered.site, revision, written=standing, wait_s=wait_s)


def show_history(*, site: str, context: str | None) -> History:
    """Read what was applied when."""
    return history(connect(context), load_site(site)[0])


def _rendered(site: str, accepts: Accepts | None = None) -> Rendered:
    """A site's manifests; checked where `accepts` is given."""
    rendered = render(*load_site(site))
    if accepts is not None:
        require_sound(rendered.objects, accepts)
    return rendered


def _chosen(
    site: str, parts: Sequence[str], manifests: Path | None, accepts: Accepts
) -> tuple[Rendered, list[Object], set[str]]:
    """The objects that are meant, checked, and the parts that they are the whole of."""
    rendered = _rendered(site, accepts)
    if manifests is not None:
        if parts:
            raise ConfigError(f"--manifests {manifests} and {' '.join(parts)}: leave one out")
        objects = read_manifests(manifests)
        require_sound(objects, accepts)
        return rendered, in_order(objects, rendered.site.namespace), set()
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"{part!r} is no part; choose from: {', '.join(PARTS)}")
        if part not in rendered.parts:
            raise ConfigError(f"{site} has no {part}; set {part}.enabled = true or schedule.cron")
    wanted = [part for part in PARTS if part in rendered.parts and (not parts or part in parts)]
    objects = [each for part in wanted for each in rendered.parts[part]]
    if "platform" not in wanted:
        objects = [*_maps_of(objects, rendered.parts["platform"]), *objects]
    return rendered, objects, set(wanted)


def _maps_of(objects: Sequence[Object], platform: Sequence[Object]) -> list[Object]:
    """The platform's ConfigMaps that `objects` mount: a new road has a new name."""
    named = {name for each in objects for name in maps_of(each)}
    return [
        each
        for each in platform
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] in named
    ]
