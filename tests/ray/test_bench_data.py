"""The measurements of embedding at their smallest: each runs, and its checks hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BENCH = Path(__file__).resolve().parents[2] / "bench" / "data"


def measure(name: str, results: Path, *arguments: str) -> dict:
    command = [sys.executable, str(BENCH / f"{name}.py"), *arguments, "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def test_all_ways_compute_the_same_features(tmp_path):
    """The script itself compares bytes with the plain loop, and values with the DataLoader."""
    batches = ["--set", "embed.batch_size=2", "--set", "embed.images_per_file=4"]
    sizes = ["--images", "20", "--rounds", "1", *batches]
    result = measure("throughput", tmp_path, *sizes)
    (timed,) = result["rounds"]
    assert timed["pipeline"]["num_computed"] == {"clip": 20, "sam": 20}
    assert timed["cached"]["num_computed"] == {"clip": 0, "sam": 0}
    assert timed["plain_loop"]["num_images"] == timed["data_loader"]["num_images"] == 20
    ratios = result["summary"]["ratios"]
    assert 0.9 < ratios["predicted_bytes"]["median"] < 1.1
    assert all(ratio["median"] > 0 for ratio in ratios.values())


def test_null_towers_embed_every_study(tmp_path):
    result = measure("null_towers", tmp_path, "--studies", "150")
    (run,) = result["runs"]
    assert run["studies"] == 150
    assert run["driver_peak_bytes"] > 10e6
    assert set(run["busy_s"]) == {"decode", "clip", "sam", "write"}
