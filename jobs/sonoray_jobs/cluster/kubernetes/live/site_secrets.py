"""The Secrets that Pods need: whether they are there, and hold what their readers take.

A wrong key would be told in the log of one Pod, after everything was applied. Nothing that a Secret
holds is ever shown. Where some keys are right, a wrong one is a warning: the service reads on over
it, and nobody who has to roll back is kept from it.
"""

import base64
import logging
from collections.abc import Sequence
from typing import Any

from sonoray.privacy.keys import parse_secret
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, ApiError, Resource
from sonoray_jobs.cluster.kubernetes.manifests.naming import CLUSTER, Object
from sonoray_jobs.cluster.kubernetes.manifests.pods import (
    IDENTITY_FOLDER,
    KEYS_FOLDER,
    S3_FOLDER,
)
from sonoray_jobs.cluster.kubernetes.refusals.walk import cluster_of, entries, inside, pods_of
from sonoray_serve.keys.key_folder import read_digests

logger = logging.getLogger(__name__)

FOLDER_ENTRIES = {IDENTITY_FOLDER: "key", S3_FOLDER: "credentials"}
"""The file that is read in a folder where a Secret is mounted."""
_SECRET = Resource(api_version="v1", kind="Secret")


def secrets_of(objects: Sequence[Object]) -> dict[str, set[str]]:
    """Secrets that Pods need, by name, with the entries that are named."""
    found: dict[str, set[str]] = {}

    def need(reference: Any, *entry: str) -> None:  # noqa: ANN401 - YAML
        name = reference.get("secretName") or reference.get("name")
        if name and not reference.get("optional"):
            found.setdefault(str(name), set()).update(entry)

    for each in objects:
        for place in pods_of(each):
            for secret in entries(place.spec.get("imagePullSecrets")):
                need(secret)
            for volume in entries(place.spec.get("volumes")):
                need(inside(volume, "secret"))
            for container in _containers(place.spec):
                for source in entries(container.get("envFrom")):
                    need(inside(source, "secretRef"))
                for item in entries(container.get("env")):
                    key = inside(item, "valueFrom", "secretKeyRef")
                    need(key, *filter(None, [key.get("key")]))
        redis = inside(cluster_of(each), "gcsFaultToleranceOptions", "redisPassword")
        key = inside(redis, "valueFrom", "secretKeyRef")
        need(key, *filter(None, [key.get("key")]))
    for name, keys in found.items():
        mounted = _folders_of(name, objects)
        keys |= {entry for folder, entry in FOLDER_ENTRIES.items() if folder in mounted}
    return found


def needed_secrets(objects: Sequence[Object]) -> dict[str, set[str]]:
    """The Secrets that people make; KubeRay makes those with tokens, which are called like it."""
    clusters = {each["metadata"]["name"] for each in objects if each["kind"] == "RayCluster"}
    return {
        name: keys for name, keys in secrets_of(objects).items() if name not in {*clusters, CLUSTER}
    }


def secret_problems(api: Api, objects: Sequence[Object], namespace: str) -> list[str]:
    """Secrets that are not there, lack an entry, or hold what no reader takes; a line for each."""
    problems = []
    try:
        if _needs_standing_cluster(objects) and api.get(_SECRET, namespace, CLUSTER) is None:
            problems.append(
                f"Secret/{CLUSTER} is missing, which the operator makes for the standing cluster; "
                "run: sonoray k8s apply cluster"
            )
        for name, keys in needed_secrets(objects).items():
            secret = api.get(_SECRET, namespace, name)
            if secret is None:
                words = " ".join(f"--from-file={key}=FILE" for key in sorted(keys))
                problems.append(
                    f"Secret/{name} is missing; make it: kubectl -n {namespace} create secret "
                    f"generic {' '.join(filter(None, (name, words)))} (docs/kubernetes.md)"
                )
            elif missing := sorted(keys - set(inside(secret, "data"))):
                problems.append(f"Secret/{name} has no entry {', '.join(missing)}; add it")
            else:
                problems += _wrong_entries(secret, objects)
    except ApiError as error:
        if error.status != 403:
            raise
        logger.warning("%s; the Secrets were not looked into", error)
    return problems


def _needs_standing_cluster(objects: Sequence[Object]) -> bool:
    return CLUSTER in secrets_of(objects) and all(
        each["kind"] != "RayCluster" or each["metadata"]["name"] != CLUSTER for each in objects
    )


def _wrong_entries(secret: Object, objects: Sequence[Object]) -> list[str]:
    """Entries that the reader of the folder where the Secret is mounted would not take."""
    name = str(secret["metadata"]["name"])
    data = {key: base64.b64decode(value) for key, value in inside(secret, "data").items()}
    folders = _folders_of(name, objects)
    problems = []
    if KEYS_FOLDER in folders:
        num_digests, wrong = 0, []
        for key, content in data.items():
            if key.startswith("."):  # the replicas leave such files out
                continue
            digests, lines = read_digests(content.decode("ascii", "replace"))
            num_digests += len(digests)
            wrong += [f"entry {key}, line {line}" for line in lines]
        told = f"Secret/{name}: {', '.join(wrong[:3])}: no sha256 of a key, and admits nobody; "
        told += "a line is 64 lower-case hex digits and nothing else, and never the key itself"
        if wrong and not num_digests:
            problems.append(told)
        elif wrong:
            logger.warning("%s", told)
        elif not num_digests:
            logger.warning("Secret/%s holds no digest of a key: the service admits nobody", name)
    if IDENTITY_FOLDER in folders and parse_secret(data.get("key", b"")) is None:
        problems.append(
            f"Secret/{name}: entry key is not 64 hex digits; restore it from a backup, or begin "
            "with: openssl rand -hex 32"
        )
    return problems


def _containers(pod: Object) -> list[Object]:
    return [*entries(pod.get("initContainers")), *entries(pod.get("containers"))]


def _folders_of(secret: str, objects: Sequence[Object]) -> set[str]:
    """Where Pods mount a Secret."""
    folders = set()
    for each in objects:
        for place in pods_of(each):
            volumes = {
                volume.get("name")
                for volume in entries(place.spec.get("volumes"))
                if inside(volume, "secret").get("secretName") == secret
            }
            for container in _containers(place.spec):
                folders |= {
                    str(mount.get("mountPath"))
                    for mount in entries(container.get("volumeMounts"))
                    if mount.get("name") in volumes
                }
    return folders
