"""What saving costs the steps of a training: how long they wait, beside the steps themselves.

Run: `.venv/bin/python bench/checkpoint_stall.py [--patients 220] [--epochs 4]`.

A training of the smallest road on two workers, whose epochs have about 50 steps of 3 studies. It
saves at the end of every epoch, behind the steps: rank 0 gathers what is learned and goes on, a
thread writes it. Printed for every epoch after the first: its steps, its time, and the time that
rank 0 spent on saving instead of on steps, as the training reports them (`epoch_s`, `saving_s`).
The steps of so small a model are short, so that the share is an upper bound: a step grows with the
decoder, and a checkpoint holds only what learns.
"""

import argparse
from pathlib import Path

from llava_ultra.testing import tiny_config
from sonoray.cluster.scratch import scratch_folder
from sonoray.cluster.session import ray_session
from sonoray.metrics.tables import Table
from sonoray.tracking.connection import open_store
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training import train
from sonoray_jobs.training.checkpoint import read_position


def main() -> None:
    """Train, and print what saving took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=220)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    road = RoadConfig.model_validate(
        {
            "phantom": {"num_patients": given.patients, "image_size": 64, "images": [1, 2]},
            "ingest": {"splits": {"train": 0.6, "validation": 0.15, "test": 0.25}},
            "model": tiny_config().model_dump(),
            "bootstrap": {part: {"steps": 2, "batch_size": 4} for part in bootstrap.PARTS},
            "train": {
                "stages": [
                    {"name": "all", "epochs": given.epochs, "learning_rate": 2e-3, "lora": True}
                ],
                "studies_per_step": 3,
            },
        }
    )
    with scratch_folder(Path("/tmp")) as scratch, ray_session():
        workspace = Workspace.open(scratch / "workspace")
        ingest.run(workspace=workspace, road=road, dataset="phantom")
        for job in (bootstrap, embed):
            job.run(workspace=workspace, road=road, dataset="phantom")
        trained = train.run(workspace=workspace, road=road, dataset="phantom")
        client = open_store(workspace).client
        times = {
            name: [each.value for each in client.get_metric_history(trained.run_id, name)]
            for name in ("epoch_s", "saving_s")
        }
        steps = read_position(trained.checkpoint).steps_per_epoch
    rows = [
        (str(number), str(steps), f"{epoch_s:.2f}", f"{1000 * saving_s:.0f}", f"{share:.3f}")
        for number, (epoch_s, saving_s) in enumerate(zip(*times.values(), strict=True), 1)
        if number > 1
        for share in [saving_s / epoch_s]
    ]
    header = ("epoch", "steps", "s", "saving, ms", "share")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))


if __name__ == "__main__":
    main()
