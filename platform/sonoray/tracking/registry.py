"""Exported models in MLflow's registry: in by manifest, out by alias or version.

What is registered is the folder of an export as it is (safetensors and manifests, no pickled
flavour), stored as artifacts of the run that trained it. Its identity is the sha256 of its
`manifest.json`, which holds the digest of every part: the same manifest is the same version, and a
folder that comes back with another one is refused. The parts themselves are held to the manifest
where the model is loaded (`llava_ultra.export.assistant`).

Registering moves no alias: that is `aliases`.
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonoray.errors import CheckpointError, TrackingError
from sonoray.stages import MANIFEST
from sonoray.tracking.connection import Store
from sonoray.tracking.model_files import lacking_files, put_files, stored_files

DIGEST_TAG = "sonoray.manifest_sha256"

_SCHEME = "models:/"
_NAME = re.compile(r"[\w.\-]+")
_BY_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_BY_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """A version in the registry."""

    name: str
    version: int
    digest: str
    """Sha256 (hex) of the manifest."""
    source: str
    """Where the artifact store has its files."""
    run_id: str
    """MLflow run of the training that made it."""
    reused: bool = field(default=True, compare=False)
    """True where the same manifest had been registered before."""
    repaired: bool = field(default=False, compare=False)
    """True where its files were gone, or not whole, and were put there again."""

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`, as `resolve_model` takes it."""
        return f"{_SCHEME}{self.name}/{self.version}"


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
    run_id: str,
    tags: Mapping[str, str] | None = None,
) -> RegisteredVersion:
    """Register an exported model.

    A version whose manifest is the same to the byte is used again, not made anew, and gets its
    files back where they are gone. Of two processes that register the same model at once, both
    get the version that was made first.

    Args:
        store: the store to register in.
        folder: the exported model; its `manifest.json` is its identity.
        name: name of the registered model, made where it does not exist.
        run_id: the training that made it; the files become artifacts of this run.
        tags: digests to show at the version.

    Raises:
        CheckpointError: the folder has no manifest.
        TrackingError: the name is not allowed, or the store fails.
    """
    digest = manifest_digest(folder)
    check_name(name)
    found = find_registered(store, name, digest)
    if found is not None:
        if not lacking_files(store, found.source, folder):
            return found
        put_files(store, found.source, folder)
        return replace(found, repaired=True)
    with store.guard(f"cannot register {str(folder)!r} as {name!r}"):
        root = store.client.get_run(run_id).info.artifact_uri.rstrip("/")
        source = f"{root}/model-{digest[:12]}"
        put_files(store, source, folder)
        _make_name(store, name)
        made = store.client.create_model_version(
            name, source, run_id=run_id, tags={**(tags or {}), DIGEST_TAG: digest}
        )
        first = find_registered(store, name, digest)
        assert first is not None  # at least the one just made
        if first.version != int(made.version):  # another process registered it meanwhile
            store.client.delete_model_version(name, made.version)
            return first
    return replace(first, reused=False)


def find_registered(store: Store, name: str, digest: str) -> RegisteredVersion | None:
    """Return the first version of a name that has this manifest; None where there is none.

    Raises:
        TrackingError: the store fails.
    """
    with store.guard(f"cannot look up the versions of {name!r}"):
        versions = store.client.search_model_versions(f"name = '{name}'")
    found = [version for version in versions if version.tags.get(DIGEST_TAG) == digest]
    return _to_version(min(found, key=lambda each: int(each.version))) if found else None


def versions_of_run(store: Store, run_id: str) -> list[RegisteredVersion]:
    """The versions that a training's run has in the registry, the newest last.

    Raises:
        TrackingError: the store fails.
    """
    with store.guard(f"cannot look up the models of run {run_id!r}"):
        versions = store.client.search_model_versions(f"run_id = '{run_id}'")
    ours = [_to_version(version) for version in versions if DIGEST_TAG in version.tags]
    return sorted(ours, key=lambda version: (version.name, version.version))


def find_version(store: Store, model: str) -> RegisteredVersion:
    """Return the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means.

    Raises:
        TrackingError: the URI has another form, the model, version or alias does not exist, or it
            was not registered by sonoray.
    """
    version = _find_version(store, model)
    if DIGEST_TAG not in version.tags:
        raise TrackingError(
            f"{model!r} was not registered by sonoray (no tag {DIGEST_TAG}); "
            "register it with: sonoray export"
        )
    return _to_version(version)


def check_name(name: str) -> None:
    """Make sure that a model may be registered under `name`.

    Raises:
        TrackingError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise TrackingError(f"model name {name!r} must consist of letters, digits, '_', '-', '.'")


def _make_name(store: Store, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _to_version(version: Any) -> RegisteredVersion:  # noqa: ANN401 - ModelVersion
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        digest=version.tags[DIGEST_TAG],
        source=version.source,
        run_id=version.run_id or "",
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
    version = find_version(store, model)
    folder = _local_folder(store, model, version.source, cache / version.digest)
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"the files of {model!r} are gone from {version.source!r} (mlflow gc deletes those of "
            "a deleted run); sonoray export puts them there again, from the workspace that made it"
        )
    if (actual := manifest_digest(folder)) != version.digest:
        raise CheckpointError(
            f"{model!r} in {str(folder)!r} has manifest {actual[:12]}, registered was "
            f"{version.digest[:12]}; the files were changed: export and register again"
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
        if not stored_files(store, source):
            return cached  # which is not there: the caller says so
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
