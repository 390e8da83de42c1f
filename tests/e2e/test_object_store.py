"""The road on an object store: features are computed there once, and the training reads them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import open_stores
from sonoray_jobs.outputs.stores import read_image_ids

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DATASET = "phantom"

DRIVER = """
import json, sys
from pathlib import Path
from sonoray.workspace import Workspace
from sonoray_jobs.towers import embed
from sonoray_jobs.training import train
from sonoray_jobs.road.config import RoadConfig

given = {
    "workspace": Workspace.open(Path(sys.argv[1])),
    "road": RoadConfig.model_validate_json(sys.argv[2]),
    "dataset": "phantom",
}
done = [embed.run(**given), embed.run(**given), train.run(**given)]
print(json.dumps([each.to_json() for each in done]))
"""
"""Its Ray's workers inherit the keys, as those of a cluster find them in their environment."""


def test_a_training_on_an_object_store_ends_like_the_one_on_a_disk(finished_road, prefix, tmp_path):
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    road = with_values(finished_road.road, {"embed.store": prefix.uri})
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json()],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    embedded, again, trained = json.loads(driver.stdout.splitlines()[-1])
    assert set(embedded["num_computed"].values()) == {embedded["num_images"]}
    assert set(again["num_computed"].values()) == {0}
    assert not list(workspace.features.glob("*"))
    ids = read_image_ids(workspace.dataset(DATASET).path)
    for tower, store in open_stores(workspace, road, DATASET).items():
        there = open_stores(finished_road.workspace, finished_road.road, DATASET)[tower]
        np.testing.assert_array_equal(store.read(ids), there.read(ids))
    assert trained["metrics"] == pytest.approx(finished_road.trained.metrics, rel=1e-5)
