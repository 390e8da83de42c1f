"""The workspace: one folder that holds everything a road makes.

```
<workspace>/stages/<name>-<hash>/    outputs of ingest, bootstrap, train, ... (sonoray.stages)
           /stages/.contents/         digests of weights of others (sonoray.digests.content)
           /datasets/<name>.json     which ingest output a dataset's name means now, and its origin
           /spool/<name>/            objects of a server that wait for their ingest (0700)
           /parts/<name>/            prepared studies that wait for their dataset (0700)
           /features/<fingerprint>/  feature store, one folder per tower (sonoray.features.store)
           /runs/<name>/             a training while it goes: checkpoints, the MLflow run id
           /models/<digest>/         registered models that a tracking server delivered
           /mlflow.db, /artifacts/   MLflow's store, where no tracking server is configured
           /identity.key             secret of the patient keys (0600)
```
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.files.text_files import is_utf8
from sonoray.known_sources import how_to_ingest
from sonoray.stages import StageOutput, read_manifest

DEFAULT_WORKSPACE = Path(".sonoray")


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths below one root; cheap to pass to Ray workers that share the file system."""

    root: Path

    @classmethod
    def open(cls, root: Path = DEFAULT_WORKSPACE, *, create: bool = True) -> "Workspace":
        """Return the workspace with an absolute path.

        Args:
            root: its folder.
            create: whether it is made where it does not exist; what only reads asks `require`.

        Raises:
            DataError: the path is a file, cannot be written or is not UTF-8.
        """
        root = root.expanduser().resolve()
        if not is_utf8(str(root)):  # many a file names it, and they are all UTF-8
            raise DataError(
                f"workspace {str(root)!r} is not UTF-8; choose another with --workspace"
            )
        if not create:
            return cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"workspace {str(root)!r} cannot be created ({error.strerror}); "
                "choose another with --workspace"
            ) from None
        return cls(root)

    def require(self, command: str = "sonoray ingest phantom") -> None:
        """Make sure that the folder exists.

        Args:
            command: one that makes it, for the message.

        Raises:
            DataError: it does not.
        """
        if not self.root.is_dir():
            raise DataError(
                f"there is no workspace {str(self.root)!r}; name another with --workspace, or "
                f"make it: {command}"
            )

    def spool(self, name: str) -> Path:
        """Folder in which the objects of the dataset `name` wait (`sonoray.ingest.dicomweb`)."""
        return self.root / "spool" / name

    def parts(self, name: str) -> Path:
        """Where prepared studies of the dataset `name` wait (`sonoray.ingest.prepared_parts`)."""
        return self.root / "parts" / name

    @property
    def stages(self) -> Path:
        """Root of the content-addressed stage outputs."""
        return self.root / "stages"

    @property
    def features(self) -> Path:
        """Root of the feature store."""
        return self.root / "features"

    @property
    def runs(self) -> Path:
        """Ray Train's storage path."""
        return self.root / "runs"

    @property
    def models(self) -> Path:
        """Registered models that an MLflow server delivered, by the digest of their manifest."""
        return self.root / "models"

    def point_dataset(
        self, name: str, output: StageOutput, origin: Mapping[str, Any] | None = None
    ) -> None:
        """Let the dataset `name` mean this ingest output from now on.

        `origin` holds the JSON arguments of the ingest, for another one. It stands here and not in
        the output, which follows from content alone: the same files may lie elsewhere tomorrow.
        """
        folder = self.root / "datasets"
        folder.mkdir(exist_ok=True)
        pointer = {"stage": output.path.name, "key": output.key, "origin": origin}
        write_json(folder / f"{name}.json", pointer)

    def dataset_origin(self, name: str) -> dict[str, Any]:
        """Return the arguments with which the dataset `name` was ingested.

        Raises:
            DataError: there is no such dataset, or it was ingested without saying from where.
        """
        origin: dict[str, Any] | None = self.dataset_pointer(name).get("origin")
        if origin is None:
            raise DataError(
                f"dataset {name!r} does not say where it came from; run once: sonoray ingest {name}"
            )
        if origin.get("source") == "relabel":
            raise DataError(
                f"dataset {name!r} was relabelled from {origin['dataset']!r}; name that one"
            )
        return origin

    def is_synthetic(self, name: str) -> bool:
        """Whether the studies of the dataset `name` were generated, as its origin says.

        A relabelled dataset is what that is whose answers it corrects.

        Raises:
            DataError: there is no such dataset.
        """
        origin = self.dataset_pointer(name).get("origin") or {}
        if origin.get("source") == "relabel":
            return self.is_synthetic(origin["dataset"])
        return bool(origin.get("source") == "phantom")

    def dataset(self, name: str) -> StageOutput:
        """Return the ingest output that the dataset `name` points to.

        Raises:
            DataError: there is no such dataset; the message lists those that exist. Or its files
                are gone.
        """
        path = self.stages / self.dataset_pointer(name)["stage"]
        if not path.is_dir():
            raise DataError(
                f"dataset {name!r} lies in {str(path)!r}, which is gone: the workspace was moved "
                "or copied without it; copy its folder stages too, or run: "
                f"{how_to_ingest(name)}"
            )
        return StageOutput(path=path, manifest=read_manifest(path), reused=True)

    def dataset_pointer(self, name: str) -> dict[str, Any]:
        """Return what `point_dataset` wrote: `stage`, the folder's name, `key` and `origin`.

        Raises:
            DataError: there is no such dataset; the message lists those that exist.
        """
        command = how_to_ingest(name)
        self.require(command)
        path = self.root / "datasets" / f"{name}.json"
        if not path.is_file():
            known = self.dataset_names()
            choose = "name one of them with --dataset, or " if known else ""
            raise DataError(
                f"no dataset {name!r} in workspace {str(self.root)!r} (there: "
                f"{', '.join(known) or 'none yet'}); {choose}run: {command}"
            )
        pointer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return pointer

    def dataset_names(self) -> list[str]:
        """Names of all datasets, sorted."""
        return sorted(path.stem for path in (self.root / "datasets").glob("*.json"))
