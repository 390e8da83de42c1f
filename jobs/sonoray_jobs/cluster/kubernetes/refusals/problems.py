"""All checks of a set of manifests, before anything is applied."""

from collections.abc import Sequence

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.command_checks import Accepts, check_commands
from sonoray_jobs.cluster.kubernetes.refusals.object_checks import check_small, check_together
from sonoray_jobs.cluster.kubernetes.refusals.pod_checks import check_pods
from sonoray_jobs.cluster.kubernetes.refusals.ray_checks import check_ray
from sonoray_jobs.cluster.kubernetes.refusals.walk import inside
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

_MOST_SHOWN = 5


def find_problems(objects: Sequence[Object], accepts: Accepts) -> list[str]:
    """What is wrong with manifests, one line each: object, value, fix.

    Args:
        objects: all of a site, or of a folder; what they refer to is looked for among them.
        accepts: says whether `sonoray` takes a subcommand with its arguments.
    """
    problems = []
    for each in objects:
        label = name_of(each)
        if not each.get("kind") or not each.get("apiVersion"):
            problems.append(f"{label}: no Kubernetes object; give it apiVersion and kind")
            continue
        if not inside(each, "metadata").get("name"):
            problems.append(f"{label}: has no name; give it metadata.name")
        for check in (check_ray, check_pods, check_small):
            problems += [f"{label}: {problem}" for problem in check(each)]
    problems += check_together(objects)
    problems += check_commands(objects, accepts)
    return problems


def require_sound(objects: Sequence[Object], accepts: Accepts) -> None:
    """Refuse manifests that could not work.

    Raises:
        ConfigError: the first problems, in one line.
    """
    problems = find_problems(objects, accepts)
    if problems:
        more = len(problems) - _MOST_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise ConfigError(f"nothing was applied: {'; '.join(problems[:_MOST_SHOWN])}{rest}")
