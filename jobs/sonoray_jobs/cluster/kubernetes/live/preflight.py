"""What a cluster must have before anything is applied to it, each lack in one line.

A strict dry run of every object on the server comes last: what it takes, the apply takes too.
"""

from collections.abc import Sequence

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import NAMESPACE, Api, ApiError, Resource
from sonoray_jobs.cluster.kubernetes.live.site_secrets import needed_secrets, secret_problems
from sonoray_jobs.cluster.kubernetes.manifests.naming import ACCOUNT, Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import inside, pods_of
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

SCRATCH_NAMESPACE = "default"
"""Where objects are tried while their own namespace is not there."""
_OWNERS = {
    "ray.io": "install the KubeRay operator with its CRDs, server-side (docs/kubernetes.md)",
    "gateway.networking.k8s.io": "install the Gateway API or set service.gateway_class = ''",
    "monitoring.coreos.com": "install the Prometheus operator or set monitoring.enabled = false",
}
_BY_GATEWAY = "NewClusterWithIncrementalUpgrade"
_MOST_SHOWN = 3
_SERVICE_ACCOUNT = Resource(api_version="v1", kind="ServiceAccount")


def check_cluster(api: Api, objects: Sequence[Object], namespace: str) -> None:
    """Refuse what this cluster could not take.

    Raises:
        ClusterError: kinds that are not installed, Secrets that are missing or wrong, or objects
            that the server refuses; nothing was applied.
    """
    problems = _missing_kinds(api, objects)
    if not problems:
        exists = api.get(NAMESPACE, "", namespace) is not None
        has_account = exists and api.get(_SERVICE_ACCOUNT, namespace, ACCOUNT) is not None
        if not has_account and all(each["kind"] != "ServiceAccount" for each in objects):
            problems = [f"namespace {namespace} has no platform; run: sonoray k8s apply platform"]
        elif exists:
            problems = secret_problems(api, objects, namespace)
        elif needed := sorted(needed_secrets(objects)):
            problems = [
                f"namespace {namespace} is not there and must hold Secret/"
                f"{', Secret/'.join(needed)} first; run: kubectl create namespace {namespace}, "
                "then kubectl create secret (docs/kubernetes.md)"
            ]
        problems += _dry_runs(api, objects, namespace if exists else SCRATCH_NAMESPACE)
        if has_account:
            problems += _pod_dry_runs(api, objects, namespace)
    if problems:
        more = len(problems) - _MOST_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise ClusterError(f"nothing was applied: {'; '.join(problems[:_MOST_SHOWN])}{rest}")


def _missing_kinds(api: Api, objects: Sequence[Object]) -> list[str]:
    wanted: dict[str, set[str]] = {}
    for each in objects:
        wanted.setdefault(str(each["apiVersion"]), set()).add(str(each["kind"]))
        if inside(each, "spec", "upgradeStrategy").get("type") == _BY_GATEWAY:
            wanted["gateway.networking.k8s.io/v1"] = {"Gateway", "HTTPRoute"}
    problems = []
    for version, kinds in wanted.items():
        if "." not in version:  # Kubernetes' own
            continue
        try:
            known = api.read(f"/apis/{version}").get("resources") or []
        except ApiError as error:
            if error.status != 404:
                raise
            known = []
        missing = sorted(kinds - {str(entry.get("kind")) for entry in known})
        if missing:
            fix = _OWNERS.get(version.partition("/")[0], "install what serves it")
            problems.append(f"the cluster has no {', '.join(missing)} of {version}; {fix}")
    return problems


def _dry_runs(api: Api, objects: Sequence[Object], namespace: str) -> list[str]:
    problems = []
    for each in objects:
        try:
            api.apply(each, namespace=namespace, dry_run=True)
        except ApiError as error:
            problems.append(str(error))
    return problems


def _pod_dry_runs(api: Api, objects: Sequence[Object], namespace: str) -> list[str]:
    """Each Pod template as a Pod: the API server does not look into those of Ray's objects."""
    problems = []
    for each in objects:
        for number, place in enumerate(pods_of(each)):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"try-{number}", "namespace": namespace},
                "spec": {**place.spec},
            }
            try:
                api.create(pod, dry_run=True)
            except ApiError as error:
                if error.status in (403, 422, 400) and "exceeded quota" not in str(error):
                    problems.append(f"{name_of(each)}: {place.where}: {error}")
    return problems
