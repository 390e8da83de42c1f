"""An embed job that notes each batch that a tower begins; `embed_faults.py` kills parts of it.

The cluster is that of RAY_ADDRESS. The towers are the road's, wrapped: before a batch is encoded,
the tower's name and the digest of its canvases go into the log as one line. A batch holds the same
images whenever it is computed (`sonoray_jobs.towers.embed_plan`), so equal lines are equal work.
"""

import argparse
import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
from material import open_towers

from sonoray.stages import StageOutput, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.embed_pipeline import Encoder, TowerStage
from sonoray_jobs.towers.embedding import embed_dataset


def main() -> None:
    """Run the job and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="workspace with dataset and towers")
    parser.add_argument("dataset", type=Path, help="folder of the ingested dataset")
    parser.add_argument("features", type=Path, help="workspace that takes the features")
    parser.add_argument("log", type=Path, help="file that gets a line for each batch begun")
    given = parser.parse_args()
    home, features = Workspace.open(given.home), Workspace.open(given.features)
    road = RoadConfig.model_validate_json((given.home / "road.json").read_text())
    output = StageOutput(path=given.dataset, manifest=read_manifest(given.dataset), reused=True)
    towers = [
        dataclasses.replace(tower, load=partial(load_noted, tower, given.log))
        for tower in open_towers(home, features, road)
    ]
    print(json.dumps(embed_dataset(output, towers, road.embed).to_json()))


def load_noted(tower: TowerStage, log: Path) -> Encoder:
    """Load a tower that notes what it begins."""
    encode = tower.load()

    def noted(canvases: np.ndarray) -> np.ndarray:
        with log.open("a", encoding="ascii") as lines:  # a short append is never split
            lines.write(f"{tower.name} {hashlib.sha256(canvases.tobytes()).hexdigest()}\n")
        return encode(canvases)

    return noted


if __name__ == "__main__":
    main()
