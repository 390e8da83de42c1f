"""The embed job beside a plain loop, beside a DataLoader, cached, and beside its own predictions.

`python bench/data/throughput.py [--images 10000] [--rounds 5] [--config tiny]`

Phantom images, towers of the preset with random weights. Every way (`ways.py`) runs in a fresh
process; they take turns, so that whatever else the machine does hits all of them, and every ratio
is formed within its round. Before anything is timed, the plain loop's batches are compared with the
pipeline's (equal bytes) and the DataLoader's features with the pipeline's (equal within float16):
all three do the same work.

- images/s from the first commit to the last, and seconds of the whole process, start-up included;
- the same job again, everything being there;
- bytes: the job's prediction against the files;
- time: start-up and rate of a pilot of a tenth of the images predict the whole job;
- where the pipeline's seconds go, by its own count of busy seconds.

10,000 images and 5 rounds take a while (the docs' run says how long); 100 and 1 a minute or two.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from material import open_towers, phantom_dataset, random_towers
from record import RESULTS, machine, run_child, spread, write_result

from sonoray.stages import StageOutput, file_digests
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig, load_road

WAYS_SCRIPT = Path(__file__).with_name("ways.py")
TOLERANCE = 4e-3
"""Of float16 features around 1, computed in batches that other numbers of threads share out."""


def main() -> None:
    """Run all rounds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    road = load_road(given.config, given.overrides)
    start = time.perf_counter()
    described = machine()
    with tempfile.TemporaryDirectory(prefix="sonoray-bench-") as scratch:
        rounds = measure(Path(scratch), road, given.images, given.rounds)
    result = {
        "asked": {"images": given.images, "rounds": given.rounds, "config": given.config}
        | ({"set": given.overrides} if given.overrides else {}),
        "machine": described,
        "rounds": rounds,
        "summary": summarise(rounds),
        "took_s": time.perf_counter() - start,
    }
    write_result(given.results, "throughput", result)


def measure(root: Path, road: RoadConfig, num_images: int, num_rounds: int) -> list[dict[str, Any]]:
    """Make the material, check that all ways do the same work, and time them in turn."""
    home = Workspace.open(root / "home")
    (home.root / "road.json").write_text(road.model_dump_json())
    random_towers(home, road)
    pilot = phantom_dataset(home, max(num_images // 10, 2 * road.embed.images_per_file), seed=1)
    whole = phantom_dataset(home, num_images, seed=0)
    extract_pngs(whole.path, home.root / "png")
    rounds = []
    for number in range(num_rounds):
        folder = root / f"round-{number}"
        timed = {
            "pilot": run(home, pilot, folder / "pilot", "pipeline"),
            "pipeline": run(home, whole, folder / "pipeline", "pipeline"),
            "cached": run(home, whole, folder / "pipeline", "pipeline"),
            "plain_loop": run(home, whole, folder / "plain_loop", "plain_loop"),
            "data_loader": run(home, whole, folder / "data_loader", "data_loader"),
        }
        if number == 0:
            check_equal(home, road, folder)
        shutil.rmtree(folder)
        rounds.append(timed)
    return rounds


def run(home: Workspace, dataset: StageOutput, features: Path, way: str) -> dict[str, Any]:
    """Go one way in a fresh process."""
    features.mkdir(parents=True, exist_ok=True)
    printed, elapsed_s = run_child(WAYS_SCRIPT, way, home.root, dataset.path, features)
    return {**printed, "process_s": elapsed_s}


def extract_pngs(dataset: Path, target: Path) -> None:
    """Write the dataset's images as files, as one would have them without a table."""
    target.mkdir()
    table = ds.dataset(dataset / "images")
    for batch in table.to_batches(columns=["image_id", "png"], batch_size=64):
        for row in batch.to_pylist():
            (target / f"{row['image_id']}.png").write_bytes(row["png"])


def check_equal(home: Workspace, road: RoadConfig, folder: Path) -> None:
    """Check that the three ways computed the same features."""
    batches = [file_digests(folder / way / "features") for way in ("pipeline", "plain_loop")]
    left, right = ({k: v for k, v in each.items() if "batch-" in k} for each in batches)
    assert left == right, "the plain loop's batches are not the pipeline's"
    for tower in open_towers(home, Workspace.open(folder / "pipeline"), road):
        ids = sorted(tower.store.ids())[:: max(1, len(tower.store.ids()) // 64)]
        saved = [np.load(folder / "data_loader" / "npy" / f"{i}.{tower.name}.npy") for i in ids]
        np.testing.assert_allclose(
            np.stack(saved), tower.store.read(ids), rtol=TOLERANCE, atol=TOLERANCE
        )


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; every ratio is of one round."""

    def over(value: Any) -> dict[str, float]:  # noqa: ANN401 - a function of one round
        return spread([value(each) for each in rounds])

    return {
        "images_per_second": {
            way: over(lambda r, way=way: r[way]["images_per_second"])
            for way in ("pipeline", "plain_loop")
        },
        "process_s": {
            way: over(lambda r, way=way: r[way]["process_s"])
            for way in ("pipeline", "plain_loop", "data_loader", "cached")
        },
        "ratios": {
            "steady_over_plain_loop": over(
                lambda r: r["pipeline"]["images_per_second"] / r["plain_loop"]["images_per_second"]
            ),
            "whole_over_plain_loop": over(
                lambda r: r["plain_loop"]["process_s"] / r["pipeline"]["process_s"]
            ),
            "whole_over_data_loader": over(
                lambda r: r["data_loader"]["process_s"] / r["pipeline"]["process_s"]
            ),
            "cached": over(lambda r: r["pipeline"]["process_s"] / r["cached"]["process_s"]),
            "predicted_bytes": over(
                lambda r: r["pipeline"]["predicted_bytes"] / r["pipeline"]["stored_bytes"]
            ),
            "predicted_time": over(lambda r: predict_s(r) / r["pipeline"]["process_s"]),
        },
        "profile": {
            step: over(lambda r, step=step: share_of(r, step))
            for step in rounds[0]["pipeline"]["busy_s"]
        },
        "data_loader_profile": {
            step: over(
                lambda r, step=step: (
                    r["data_loader"]["main_process_s"][step] / r["data_loader"]["process_s"]
                )
            )
            for step in rounds[0]["data_loader"]["main_process_s"]
        },
    }


def predict_s(timed: dict[str, Any]) -> float:
    """Seconds of the whole job from its pilot: start-up, then its rate."""
    pilot, whole = timed["pilot"], timed["pipeline"]
    rate = pilot["images_per_second"]
    startup_s: float = pilot["process_s"] - pilot["num_images"] / rate
    return startup_s + whole["num_images"] / rate


def share_of(timed: dict[str, Any], step: str) -> float:
    """A step's share of the cores' seconds while the pipeline ran."""
    available = (os.cpu_count() or 1) * timed["pipeline"]["process_s"]
    return float(timed["pipeline"]["busy_s"][step] / available)


if __name__ == "__main__":
    main()
