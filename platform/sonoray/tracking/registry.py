"""Exported models in MLflow's registry: in by manifest, out by alias or version.

What is registered is the folder of an export as it is (safetensors and manifests, no pickled
flavour), stored as artifacts of the run that trained it. Its identity is the sha256 of its
`manifest.json`, which holds the digest of every part: the same manifest is the same version, and a
folder that comes back with another one is refused. The parts themselves are held to the manifest
where the model is loaded (`llava_ultra.export.assistant`).
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import CheckpointError, TrackingError
from sonoray.stages import MANIFEST
from sonoray.tracking.connection import Store

DIGEST_TAG = "sonoray.manifest_sha256"

_SCHEME = "models:/"
_NAME = re.compile(r"[\w.\-]+")
_BY_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_BY_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """A version in the registry, with the alias that was set."""

    name: str
    version: int
    alias: str
    digest: str
    """Sha256 (hex) of the manifest."""
    reused: bool
    """True where the same manifest had been registered before."""

    @property
    def uri(self) -> str:
        """`models:/NAME@ALIAS`, as `resolve_model` takes it."""
        return f"{_SCHEME}{self.name}@{self.alias}"


def manifest_digest(folder: Path) -> str:
    """Sha256 (hex) of the folder's manifest.

    Raises:
        CheckpointError: there is no such folder or no manifest in it.
    """
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"model folder {str(folder)!r} has no readable {MANIFEST} ({error.strerror}); "
            "give a folder that sonoray export made"
        ) from None


def register(
    store: Store,
    folder: Path,
    name: str,
    *,
    alias: str,
    run_id: str,
    tags: Mapping[str, str] | None = None,
) -> RegisteredVersion:
    """Register an exported model and let `alias` point to it.

    A version whose manifest is the same to the byte is used again, not made anew.

    Args:
        store: the store to register in.
        folder: the exported model; its `manifest.json` is its identity.
        name: name of the registered model, made where it does not exist.
        alias: alias to move, as `champion`.
        run_id: the training that made it; the files become artifacts of this run.
        tags: digests to show at the version.

    Raises:
        CheckpointError: the folder has no manifest.
        TrackingError: the name or the alias is not allowed, or the store fails.
    """
    from mlflow.exceptions import MlflowException

    digest = manifest_digest(folder)
    if not _NAME.fullmatch(name):
        raise TrackingError(f"model name {name!r} must consist of letters, digits, '_', '-', '.'")
    with store.guard(f"cannot register {str(folder)!r} as {name!r} with alias {alias!r}"):
        try:
            store.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = [
            version
            for version in store.client.search_model_versions(f"name = '{name}'")
            if version.tags.get(DIGEST_TAG) == digest
        ]
        if found:
            version = int(found[0].version)
        else:
            path = f"model-{digest[:12]}"
            store.client.log_artifacts(run_id, str(folder), path)
            source = f"{store.client.get_run(run_id).info.artifact_uri.rstrip('/')}/{path}"
            made = store.client.create_model_version(
                name, source, run_id=run_id, tags={**(tags or {}), DIGEST_TAG: digest}
            )
            version = int(made.version)
        store.client.set_registered_model_alias(name, alias, str(version))
    return RegisteredVersion(
        name=name, version=version, alias=alias, digest=digest, reused=bool(found)
    )


def resolve_model(store: Store, model: str, cache: Path) -> Path:
    """Return the local folder of a model.

    Args:
        store: the store to look in.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a local folder.
        cache: folder that keeps what had to be downloaded, by digest (`Workspace.models`).

    Raises:
        TrackingError: no such model, version or alias; the message lists those that exist.
        CheckpointError: the folder is missing or is not the one that was registered.
    """
    if not model.startswith(_SCHEME):
        folder = Path(model).expanduser()
        manifest_digest(folder)
        return folder
    version = _find_version(store, model)
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise TrackingError(
            f"{model!r} was not registered by sonoray (no tag {DIGEST_TAG}); "
            "register it with: sonoray export"
        )
    folder = _local_folder(store, model, version.source, cache / digest)
    if (actual := manifest_digest(folder)) != digest:
        raise CheckpointError(
            f"{model!r} in {str(folder)!r} has manifest {actual[:12]}, registered was "
            f"{digest[:12]}; the files were changed: export and register again"
        )
    return folder


def _local_folder(store: Store, model: str, source: str, cached: Path) -> Path:
    """Return the artifact folder itself where it is local, else a downloaded copy of it."""
    with store.guard(f"cannot deliver {model!r} from {source!r}"):
        from mlflow.artifacts import download_artifacts
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        if is_local_uri(source):
            return Path(local_file_uri_to_path(source))
        if cached.is_dir():
            return cached
        partial = cached.with_name(f".{cached.name}.{uuid.uuid4().hex[:8]}.partial")
        partial.mkdir(parents=True)
        try:
            got = download_artifacts(source, dst_path=str(partial), tracking_uri=store.uri)
            try:
                Path(got).rename(cached)
            except OSError:  # another process brought the same model first
                if not cached.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return cached


def _find_version(store: Store, model: str) -> Any:  # noqa: ANN401 - ModelVersion
    """Return MLflow's version for a `models:/` URI.

    Raises:
        TrackingError: the URI has another form, or the model, version or alias does not exist.
    """
    from mlflow.exceptions import MlflowException

    by_alias, by_version = _BY_ALIAS.fullmatch(model), _BY_VERSION.fullmatch(model)
    if by_alias is None and by_version is None:
        raise TrackingError(
            f"model {model!r} is not of the form models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    with store.guard(f"cannot look up {model!r}"):
        try:
            if by_alias is not None:
                return store.client.get_model_version_by_alias(by_alias["name"], by_alias["alias"])
            assert by_version is not None
            return store.client.get_model_version(by_version["name"], by_version["version"])
        except MlflowException as error:
            # An unknown alias is INVALID_PARAMETER_VALUE to MLflow's SQL store.
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
        name = (by_alias or by_version)["name"]  # type: ignore[index] # one of them matched
        there = _what_exists(store, name)
    raise TrackingError(f"no model {model!r} in the registry; there is {there}")


def _what_exists(store: Store, name: str) -> str:
    models = {model.name: model for model in store.client.search_registered_models()}
    if name not in models:
        known = ", ".join(sorted(models))
        return f"model {known}" if known else "none yet: run sonoray export"
    found = store.client.search_model_versions(f"name = '{name}'")
    versions = sorted(int(version.version) for version in found)
    aliases = ", ".join(f"@{alias} = {v}" for alias, v in sorted(models[name].aliases.items()))
    numbers = ", ".join(map(str, versions)) or "none"
    return f"of {name!r}: versions {numbers}; aliases {aliases or 'none'}"
