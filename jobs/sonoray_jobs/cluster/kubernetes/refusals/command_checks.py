"""What is refused in what the manifests run: entrypoints, roads, Serve's configuration.

Which words `sonoray` accepts only the command line knows; it hands in a function that says so.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import yaml
from pydantic import ValidationError

from sonoray.config.explain import describe_error
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.quantity import to_number
from sonoray_jobs.cluster.kubernetes.refusals.walk import (
    cluster_of,
    entries,
    groups_of,
    inside,
    pods_of,
)

Accepts = Callable[[str, Sequence[str]], str]
"""Name and arguments of a subcommand to what is wrong with them, empty where nothing is."""

_PREFIX = ["python", "-m", "sonoray_jobs.cli"]
_TRAINS = "train"


def check_commands(objects: Sequence[Object], accepts: Accepts) -> Iterator[str]:
    """Say what the manifests run that could not run."""
    files = {
        str(inside(each, "metadata").get("name")): inside(each, "data")
        for each in objects
        if each.get("kind") == "ConfigMap"
    }
    for each in objects:
        kind = each.get("kind")
        label = f"{kind}/{inside(each, 'metadata').get('name')}"
        if kind == "RayJob":
            problems = _job(each, files, accepts)
        elif kind == "RayService":
            problems = _service(each, files)
        else:
            continue
        for problem in problems:
            yield f"{label}: {problem}"


def _job(made: Object, files: Mapping[str, Object], accepts: Accepts) -> Iterator[str]:
    entrypoint = str(inside(made, "spec").get("entrypoint") or "")
    try:
        words = shlex.split(entrypoint)
    except ValueError as error:
        yield f"entrypoint {entrypoint!r} cannot be read ({error}); quote it"
        return
    place = next((i for i in range(len(words)) if words[i : i + 3] == _PREFIX), None)
    if place is None or len(words) < place + 4:
        yield f"entrypoint {entrypoint!r} is no {' '.join(_PREFIX)} COMMAND; write one"
        return
    name, arguments = words[place + 3], words[place + 4 :]
    if problem := accepts(name, arguments):
        yield f"entrypoint {entrypoint!r} is one that sonoray refuses: {problem}"
        return
    path = _value(arguments, "--config")
    mounts = _mounts(made)
    if path.startswith("/"):
        folder, _, file = path.rpartition("/")
        named = mounts.get(folder, {}).get("configMap", {}).get("name")
        text = inside(files.get(named, {})).get(file)
        if named and named in files and text is None:
            yield f"--config {path}: ConfigMap/{named} has no {file}; add it"
        elif folder not in mounts:
            yield f"--config {path}: nothing is mounted at {folder}; mount the road there"
        elif text is not None:
            yield from _road(text, made, name)
    workspace = _value(arguments, "--workspace")
    if workspace.startswith("/") and "persistentVolumeClaim" not in mounts.get(workspace, {}):
        yield f"--workspace {workspace}: no volume is mounted there, so that all would be lost"


def _road(text: str, made: Object, name: str) -> Iterator[str]:
    from sonoray_jobs.road.config import RoadConfig

    try:
        road = validate_config(RoadConfig, tomllib.loads(text), "its road.toml")
    except (ConfigError, tomllib.TOMLDecodeError) as error:
        yield str(error)
        return
    cluster = cluster_of(made) or {}
    cpus, gpus = _total(cluster, "cpu"), _total(cluster, "/gpu")
    train = road.train
    wanted = {
        _TRAINS: (
            train.num_workers * train.cpus_per_worker,
            train.num_workers * train.gpus_per_worker,
        ),
        "evaluate": (
            road.evaluate.actors * road.evaluate.actor_cpus,
            road.evaluate.actors * road.evaluate.actor_gpus,
        ),
        "embed": (
            road.embed.actors * road.embed.actor_cpus,
            road.embed.actors * road.embed.actor_gpus,
        ),
    }.get(name)
    for what, asked, there in zip(("CPUs", "GPUs"), wanted or (), (cpus, gpus), strict=False):
        if asked > there:
            yield f"its road asks for {asked:g} {what} and its workers have {there:g}; change one"


def _service(made: Object, files: Mapping[str, Object]) -> Iterator[str]:
    spec = inside(made, "spec")
    try:
        config = yaml.safe_load(str(spec.get("serveConfigV2") or ""))
    except yaml.YAMLError as error:
        yield f"serveConfigV2 is no YAML ({str(error).splitlines()[0]}); mend it"
        return
    applications = entries(inside(config).get("applications"))
    if not applications:
        yield "serveConfigV2 has no applications; add one"
    for application in applications:
        path = str(application.get("import_path"))
        module, _, attribute = path.partition(":")
        try:
            getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError):
            yield f"import_path {path!r} leads nowhere; write sonoray_serve.app:build"
            continue
        yield from _arguments(inside(application, "args"), made, files)


def _arguments(args: Any, made: Object, files: Mapping[str, Object]) -> Iterator[str]:  # noqa: ANN401 - YAML
    from sonoray_serve.settings import AppArgs

    mounts = _mounts(made)
    values = dict(args)
    if path := values.pop("file", None):
        folder, _, file = str(path).rpartition("/")
        named = mounts.get(folder, {}).get("configMap", {}).get("name")
        text = inside(files.get(str(named), {})).get(file)
        if text is None:
            yield f"args.file {path!r}: no ConfigMap with {file} is mounted at {folder}; add it"
            return
        try:
            values = {**tomllib.loads(text), **values}
        except tomllib.TOMLDecodeError as error:
            yield f"args.file {path!r} is no TOML ({error}); mend it"
            return
    try:
        given = AppArgs.model_validate(values)
    except ValidationError as error:
        yield "; ".join(describe_error(AppArgs, detail) for detail in error.errors())
        return
    if given.insecure_local:
        yield "args.insecure_local serves everybody without a key; remove it"
    folder = given.api_key_digests_folder
    if folder and "secret" not in mounts.get(folder, {}):
        yield f"args.api_key_digests_folder {folder!r}: no Secret is mounted there; mount it"
    if given.workspace not in mounts:
        yield f"args.workspace {given.workspace!r} is not mounted, and the root is read-only"
    keep = inside(made, "spec").get("rayClusterDeletionDelaySeconds", 60)
    longest_s = given.config.limits.deadline_s
    if isinstance(keep, int) and keep <= longest_s:
        yield (
            f"rayClusterDeletionDelaySeconds {keep} is no more than the {longest_s:g} s that a "
            "request may take, so that an upgrade would cut requests; raise it"
        )
    yield from _fits(given, made)


def _fits(given: Any, made: Object) -> Iterator[str]:  # noqa: ANN401 - AppArgs
    cluster = cluster_of(made) or {}
    config = given.config
    for field, resource in (("num_cpus", "cpu"), ("num_gpus", "/gpu")):
        asked = sum(
            getattr(each, field) * each.min_replicas
            for each in (config.ingress, config.vision, config.engine)
        )
        there = _total(cluster, resource)
        if asked > there:
            what = {"num_cpus": "CPUs", "num_gpus": "GPUs"}[field]
            yield (
                f"its replicas ask for {asked:g} {what} and its workers have {there:g}; change one"
            )


def _total(cluster: Object, resource: str) -> float:
    """What Ray finds on all workers that are up from the start."""
    total = 0.0
    for group in groups_of(cluster):
        for container in entries(inside(group, "template", "spec").get("containers"))[:1]:
            limits = inside(container, "resources", "limits")
            for name, value in limits.items():
                if name == resource or (resource.startswith("/") and name.endswith(resource)):
                    try:
                        total += to_number(value) * int(group.get("replicas") or 0)
                    except ValueError:  # said of the Pod
                        continue
    return total


def _mounts(made: Object) -> dict[str, Object]:
    """Of the first Pod's first container: by path, the volume."""
    place = next(iter(pods_of(made)), None)
    if place is None:
        return {}
    volumes = {volume.get("name"): volume for volume in entries(place.spec.get("volumes"))}
    mounts = entries(
        inside(next(iter(entries(place.spec.get("containers"))), {})).get("volumeMounts")
    )
    return {str(mount.get("mountPath")): volumes.get(mount.get("name"), {}) for mount in mounts}


def _value(arguments: Sequence[str], option: str) -> str:
    found = [arguments[i + 1] for i in range(len(arguments) - 1) if arguments[i] == option]
    joined = [
        re.sub(rf"^{option}=", "", word) for word in arguments if word.startswith(f"{option}=")
    ]
    return (found + joined or [""])[-1]
