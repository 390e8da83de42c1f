"""A finished evaluation on disk, found by its folder or by the training that it judged.

A training is named by its MLflow run id, its run name, or the beginning of either. Everything is
read from the workspace: neither Ray nor MLflow is asked.
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
        DataError: nothing or more than one training fits the name, or it was not evaluated.
    """
    folder = named_folder(name)
    if folder is not None:
        return read_named(folder)
    workspace.require()
    found = [
        Evaluation.read(path.parent) for path in workspace.stages.glob(f"{_STAGE}*/{MANIFEST}")
    ]
    trainings = _trainings(workspace) | {item.training: item.run_id for item in found}
    fitting = {
        training
        for training, run_id in trainings.items()
        if training.startswith(name) or run_id.startswith(name)
    }
    exact = {training for training in fitting if name in (training, trainings[training])}
    fitting = exact or fitting
    if not name or not fitting:
        known = ", ".join(sorted(trainings)) or "none"
        raise DataError(
            f"no evaluation folder, MLflow run id or run name {name!r} in workspace "
            f"{str(workspace.root)!r} (trainings there: {known})"
        )
    if len(fitting) > 1:
        raise DataError(f"{name!r} fits several trainings: {', '.join(sorted(fitting))}; say more")
    (training,) = fitting
    own = [
        item
        for item in found
        if (item.training, item.split) == (training, split) and not item.config.get("only")
    ]
    if not own:
        raise DataError(
            f"training {training!r} has no evaluation of the whole split {split!r}; run: sonoray "
            f"evaluate --split {split} with its --config and --set, or name an evaluation's folder"
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


def _trainings(workspace: Workspace) -> dict[str, str]:
    """MLflow run ids of the workspace's trainings, finished or not, by name."""
    from sonoray.tracking.runs import RUN_ID_FILE

    return {
        file.parent.name: file.read_text(encoding="utf-8").strip()
        for file in workspace.runs.glob(f"*/{RUN_ID_FILE}")
    }
