"""The files of a registered version: whether they are there, and how they are put there again.

MLflow keeps a version and its files apart. `mlflow gc` deletes the artifacts of a deleted run, and
a version that was registered from them stays READY, with its aliases, and cannot be loaded. So the
files are counted, by path and size, wherever a version is registered again or promoted, and an
export that has them puts them back at the same place: the version's number, its aliases and whoever
uses them stay as they are.
"""

from pathlib import Path

from sonoray.tracking.connection import Store


def local_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stored_files(store: Store, source: str) -> dict[str, int]:
    """Sizes in bytes of all files that the artifact store has at `source`; empty where it has none.

    Raises:
        TrackingError: the artifact store cannot be asked.
    """
    with store.guard(f"cannot list the files of {source!r}"):
        repository = _repository(store, source)
        found: dict[str, int] = {}
        folders = [""]
        while folders:
            for entry in repository.list_artifacts(folders.pop() or None):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    found[entry.path] = int(entry.file_size or 0)
    return found


def lacking_files(store: Store, source: str, folder: Path) -> list[str]:
    """Paths of `folder` that the artifact store lacks at `source`, or has in another size.

    Raises:
        TrackingError: the artifact store cannot be asked.
    """
    stored = stored_files(store, source)
    return [path for path, size in local_files(folder).items() if stored.get(path) != size]


def put_files(store: Store, source: str, folder: Path) -> None:
    """Write all files of `folder` to the artifact store at `source`.

    Raises:
        TrackingError: the artifact store does not take them.
    """
    with store.guard(f"cannot write the files of {source!r}"):
        _repository(store, source).log_artifacts(str(folder))


def _repository(store: Store, source: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - MLflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(source, tracking_uri=store.uri)
