"""The tiny road, gone through once for all tests that look at what it leaves."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from sonoray.workspace import Workspace
from sonoray_jobs import bootstrap, embed, evaluate, export, ingest, train
from sonoray_jobs.road import RoadConfig

DATASET = "phantom"


@dataclass(frozen=True, kw_only=True)
class FinishedRoad:
    """A workspace in which every step was done once, and what each said."""

    road: RoadConfig
    workspace: Workspace
    bootstrapped: bootstrap.Bootstrapped
    embedded: embed.Embedded
    trained: train.Trained
    train_workers: int
    """Workers that the training had."""
    evaluated: evaluate.Evaluated
    exported: export.Exported

    def copy(self, folder: Path, *parts: str) -> Workspace:
        """A workspace of its own with some of this one's folders."""
        for part in parts:
            shutil.copytree(self.workspace.root / part, folder / part)
        return Workspace.open(folder)


def count_train_workers() -> int:
    """Ray Train workers that this Ray has had so far."""
    from ray._private.state import actors  # the public API needs the dashboard

    return sum(actor["ActorClassName"] == "RayTrainWorker" for actor in actors().values())


@pytest.fixture(scope="session")
def finished_road(
    ray_local: str, tiny_road: RoadConfig, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRoad:
    workspace = Workspace.open(tmp_path_factory.mktemp("road"))
    common = {"workspace": workspace, "road": tiny_road, "dataset": DATASET}
    ingest.run(**common)
    bootstrapped = bootstrap.run(**common)
    embedded = embed.run(**common)
    before = count_train_workers()
    trained = train.run(**common)
    return FinishedRoad(
        road=tiny_road,
        workspace=workspace,
        bootstrapped=bootstrapped,
        embedded=embedded,
        trained=trained,
        train_workers=count_train_workers() - before,
        evaluated=evaluate.run(**common),
        exported=export.run(**common),
    )
