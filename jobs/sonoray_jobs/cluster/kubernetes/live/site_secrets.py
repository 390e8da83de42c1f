"""The Secrets that Pods need: whether they are there, and hold what their readers take.

A wrong key would be told in the log of one Pod, after everything was applied. Nothing that a Secret
holds is ever shown.
"""

import base64
from collections.abc import Sequence

from sonoray.privacy.keys import parse_secret
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, Resource
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.manifests.pods import IDENTITY_FOLDER, KEYS_FOLDER
from sonoray_jobs.cluster.kubernetes.refusals.walk import entries, inside, pods_of
from sonoray_serve.keys.key_folder import read_digests

_SECRET = Resource(api_version="v1", kind="Secret")


def secrets_of(objects: Sequence[Object]) -> dict[str, set[str]]:
    """Secrets that Pods need, by name, with the entries that are named."""
    found: dict[str, set[str]] = {}
    for each in objects:
        for place in pods_of(each):
            for volume in entries(place.spec.get("volumes")):
                if name := inside(volume, "secret").get("secretName"):
                    found.setdefault(str(name), set())
            for container in entries(place.spec.get("containers")):
                for item in entries(container.get("env")):
                    reference = inside(item, "valueFrom", "secretKeyRef")
                    if reference:
                        found.setdefault(str(reference["name"]), set()).add(str(reference["key"]))
    return found


def needed_secrets(objects: Sequence[Object]) -> dict[str, set[str]]:
    """The Secrets that people make; KubeRay makes those with tokens, which are called like it."""
    clusters = {each["metadata"]["name"] for each in objects if each["kind"] == "RayCluster"}
    return {name: keys for name, keys in secrets_of(objects).items() if name not in clusters}


def secret_problems(api: Api, objects: Sequence[Object], namespace: str) -> list[str]:
    """Secrets that are not there, lack an entry, or hold what no reader takes; a line for each."""
    problems = []
    for name, keys in needed_secrets(objects).items():
        secret = api.get(_SECRET, namespace, name)
        if secret is None:
            problems.append(
                f"Secret/{name} is missing; make it: kubectl -n {namespace} create secret generic "
                f"{name} (docs/kubernetes.md)"
            )
        elif missing := sorted(keys - set(inside(secret, "data"))):
            problems.append(f"Secret/{name} has no entry {', '.join(missing)}; add it")
        else:
            problems += _wrong_entries(secret, objects)
    return problems


def _wrong_entries(secret: Object, objects: Sequence[Object]) -> list[str]:
    """Entries that the reader of the folder where the Secret is mounted would not take."""
    name = str(secret["metadata"]["name"])
    data = {key: base64.b64decode(value) for key, value in inside(secret, "data").items()}
    folders = _folders_of(name, objects)
    problems = []
    if KEYS_FOLDER in folders:
        num_digests = 0
        for key, content in data.items():
            digests, wrong = read_digests(content.decode("ascii", "replace"))
            num_digests += len(digests)
            problems += [
                f"Secret/{name}: entry {key}, line {line}, is no sha256 in hex, and admits nobody; "
                "give the digest of a key, never the key (docs/kubernetes.md)"
                for line in wrong
            ]
        if not num_digests and not problems:
            problems.append(f"Secret/{name} holds no digest of a key, and admits nobody; add one")
    if IDENTITY_FOLDER in folders and parse_secret(data.get("key", b"")) is None:
        problems.append(
            f"Secret/{name}: entry key is not 64 hex digits; restore it from a backup, or begin "
            "with: openssl rand -hex 32"
        )
    return problems


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
            for container in entries(place.spec.get("containers")):
                folders |= {
                    str(mount.get("mountPath"))
                    for mount in entries(container.get("volumeMounts"))
                    if mount.get("name") in volumes
                }
    return folders
