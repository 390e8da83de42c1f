"""What is refused in a Pod: rights, volumes, resources, images, secrets in plain sight."""

import re
from collections.abc import Iterator
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.quantity import to_number
from sonoray_jobs.cluster.kubernetes.refusals.walk import PodPlace, entries, inside, pods_of

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_NO_SECRET = re.compile(r"_(FILE|PATH)$")
_VOLUMES = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}
_RESTART = ("Always", "OnFailure", "Never")
_PULL = ("Always", "IfNotPresent", "Never")


def check_pods(made: Object) -> Iterator[str]:
    """Say what is wrong with the Pods of an object."""
    for place in pods_of(made):
        for problem in _pod(place):
            yield f"{place.where} {problem}"


def _pod(place: PodPlace) -> Iterator[str]:
    pod = place.spec
    if not entries(pod.get("containers")):
        yield "has no container; give it one"
        return
    yield from _rights(pod)
    yield from _volumes(pod)
    if (policy := pod.get("restartPolicy")) not in (None, *_RESTART):
        yield f"has restartPolicy {policy!r}; choose one of {', '.join(_RESTART)}"
    for container in [*entries(pod.get("initContainers")), *entries(pod.get("containers"))]:
        name = container.get("name")
        for problem in (
            *_container_rights(container),
            *_resources(container),
            *_image(container),
            *_environment(container),
            *_mounts(container, pod),
        ):
            yield f"container {name!r} {problem}"


def _rights(pod: Object) -> Iterator[str]:
    security = inside(pod.get("securityContext"))
    if security.get("runAsNonRoot") is not True:
        yield "may run as root; set securityContext.runAsNonRoot: true"
    if security.get("runAsUser", 1) == 0:
        yield "runs as uid 0; set securityContext.runAsUser: 1000"
    if inside(security, "seccompProfile").get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile; set securityContext.seccompProfile.type: RuntimeDefault"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"has {name}, which the restricted standard forbids; remove it"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of the API; set automountServiceAccountToken: false"


def _container_rights(container: Object) -> Iterator[str]:
    security = inside(container.get("securityContext"))
    if security.get("privileged"):
        yield "is privileged; remove securityContext.privileged"
    if security.get("runAsUser", 1) == 0:
        yield "runs as uid 0; remove securityContext.runAsUser"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain rights; set securityContext.allowPrivilegeEscalation: false"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root; set securityContext.readOnlyRootFilesystem: true"
    capabilities = inside(security, "capabilities")
    if capabilities.get("drop") != ["ALL"]:
        yield "keeps capabilities; set securityContext.capabilities.drop: [ALL]"
    if added := capabilities.get("add"):
        yield f"adds the capabilities {added}; remove them"
    if any("hostPort" in port for port in entries(container.get("ports"))):
        yield "takes a port of the node; remove hostPort"


def _volumes(pod: Object) -> Iterator[str]:
    names = [volume.get("name") for volume in entries(pod.get("volumes"))]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield f"has two volumes {name!r}; rename one"
    for volume in entries(pod.get("volumes")):
        for kind in sorted(set(volume) - {"name"} - _VOLUMES):
            yield f"mounts a {kind} ({volume.get('name')!r}), which is forbidden; use a claim"
        size = inside(volume, "emptyDir").get("sizeLimit")
        if "emptyDir" in volume and size is None:
            yield f"has the emptyDir {volume.get('name')!r} without sizeLimit; give it one"


def _mounts(container: Object, pod: Object) -> Iterator[str]:
    volumes = {volume.get("name") for volume in entries(pod.get("volumes"))}
    mounts = entries(container.get("volumeMounts"))
    paths = [mount.get("mountPath") for mount in mounts]
    for mount in mounts:
        if mount.get("name") not in volumes:
            yield f"mounts the volume {mount.get('name')!r}, which the Pod lacks; add it"
        path = str(mount.get("mountPath"))
        if not path.startswith("/") or ".." in path.split("/"):
            yield f"mounts at {path!r}; give an absolute path"
    for path in sorted({str(path) for path in paths if paths.count(path) > 1}):
        yield f"mounts two volumes at {path!r}; move one"


def _resources(container: Object) -> Iterator[str]:
    resources = inside(container.get("resources"))
    requests, limits = inside(resources, "requests"), inside(resources, "limits")
    numbers: dict[tuple[str, str], float] = {}
    for side, values in (("requests", requests), ("limits", limits)):
        for name, value in values.items():
            try:
                numbers[side, name] = to_number(value)
            except ValueError as error:
                yield f"{side} {name}: {error}"
    for (side, name), number in numbers.items():
        if "/" in name and number != int(number):
            yield f"{side} {number:g} of {name}, which are whole; a share is Ray's (num_gpus)"
        limit = numbers.get(("limits", name))
        if side == "requests" and limit is not None and number > limit:
            yield (f"requests {requests[name]} of {name} above its limit {limits[name]}; lower it")
        if side == "limits" and "/" in name and numbers.get(("requests", name), number) != number:
            yield f"requests other {name} than its limit {limits[name]}; give both alike"
    if "memory" not in limits:
        yield "has no memory limit, so it may take the node's; set resources.limits.memory"
    if "memory" not in requests and "memory" in limits:
        yield "requests no memory; set resources.requests.memory"


def _image(container: Object) -> Iterator[str]:
    image = str(container.get("image") or "")
    name = image.partition("@")[0].rpartition("/")[2]
    if not image:
        yield "has no image; name one"
    elif "@sha256:" not in image and (":" not in name or name.endswith(":latest")):
        yield f"has the image {image!r}, which is another every day; name a version or a digest"
    policy = container.get("imagePullPolicy")
    if policy not in (None, *_PULL):
        yield f"has imagePullPolicy {policy!r}; choose one of {', '.join(_PULL)}"


def _environment(container: Object) -> Iterator[str]:
    for item in entries(container.get("env")):
        name, value = str(item.get("name")), item.get("value")
        is_secret = _SECRET_NAME.search(name) and not _NO_SECRET.search(name)
        if value and is_secret and not _is_harmless(value):
            yield f"holds a secret in the variable {name}; take it from a Secret"


def _is_harmless(value: Any) -> bool:  # noqa: ANN401 - YAML
    """Whether a value is a path, which is where secrets should lie, or a switch."""
    return str(value).startswith("/") or str(value).lower() in {"true", "false", "0", "1"}
