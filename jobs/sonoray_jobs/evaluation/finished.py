"""A finished evaluation on disk, found by its folder or by the training that it judged.

A training is named as `--run` takes it (`sonoray_jobs.outputs.named_runs`). Everything is read from
the workspace: neither Ray nor MLflow is asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.stages import MANIFEST, read_manifest
from sonoray.study.contract import SPLITS
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.predictions import SETTINGS
from sonoray_jobs.outputs.named_runs import NamedRun, known_runs, match_run

_STAGE = "evaluate-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A finished evaluation on disk."""

    path: Path
    dataset: str
    """Name of the dataset."""
    dataset_key: str
    """Key of the ingest output that the name meant then."""
    split: str
    training: str
    """Name of the training."""
    run_id: str
    """Its MLflow run."""
    config: Mapping[str, Any]
    """The `evaluate` section that it was made with."""
    settings: Mapping[str, Any]
    """All settings behind its answers."""

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Read the manifest of an evaluation's folder.

        Raises:
            DataError: the folder is no finished evaluation.
        """
        manifest = read_manifest(path)
        name = str(manifest.get("name"))
        dataset, _, split = name.removeprefix(_STAGE).rpartition("-")
        if not name.startswith(_STAGE) or split not in SPLITS:
            raise DataError(
                f"{str(path)!r} is the output of {name!r}, not of an evaluation; name a folder "
                "that sonoray evaluate has printed"
            )
        dataset_key, training, *_ = manifest["inputs"]  # as `outputs.evaluation_stage` gives them
        return cls(
            path=path,
            dataset=dataset,
            dataset_key=dataset_key,
            split=split,
            training=training,
            run_id=manifest["summary"]["run_id"],
            config=manifest["config"],
            settings=_read_settings(path),
        )

    @property
    def title(self) -> str:
        """What a person reads."""
        return f"{self.training} (MLflow run {self.run_id}), {self.path}"

    def to_json(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"training": self.training, "run_id": self.run_id, "path": str(self.path)}


def find_evaluation(workspace: Workspace, name: str, split: str) -> Evaluation:
    """Return the evaluation that a name means; of several of one training the newest.

    Raises:
        DataError: no training or more than one fits the name, or it was not evaluated.
    """
    folder = named_folder(name)
    if folder is not None:
        return read_named(folder)
    workspace.require()
    found = [
        Evaluation.read(path.parent) for path in workspace.stages.glob(f"{_STAGE}*/{MANIFEST}")
    ]
    runs = {item.training: NamedRun(name=item.training, run_id=item.run_id) for item in found}
    runs |= {run.name: run for run in known_runs(workspace)}
    training = match_run([runs[each] for each in sorted(runs)], name).name
    own = [
        item
        for item in found
        if (item.training, item.split) == (training, split) and not item.config.get("only")
    ]
    if not own:
        raise DataError(
            f"training {training!r} has no evaluation of the whole split {split!r}; run: sonoray "
            f"evaluate --run {training} --split {split}, or name an evaluation's folder"
        )
    whole = [item for item in own if not item.config.get("topics")]  # rather than of some topics
    return max(whole or own, key=lambda item: (item.path / MANIFEST).stat().st_mtime_ns)


def named_folder(name: str) -> Path | None:
    """Return the folder that a name is, None where it is none."""
    path = Path(name).expanduser()
    return path.resolve() if name and path.is_dir() else None


def read_named(folder: Path) -> Evaluation:
    """Read the evaluation in a folder that somebody names; it may be any folder.

    Raises:
        DataError: it is no finished evaluation.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{str(folder)!r} is no evaluation; give a training, an MLflow run or a folder that "
            "sonoray evaluate printed"
        )
    return Evaluation.read(folder)


def _read_settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings
