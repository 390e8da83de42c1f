"""Fixtures of the whole suite: one Ray per test run, a tiny road, the public data."""

import os

# before anything imports torch: tiny tensors gain nothing from threads, and two test processes that
# wait for each other at every operation run ten times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sonoray.cluster import ray_session
from sonoray_jobs.road import RoadConfig

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """One private Ray with four logical CPUs for all tests; its address, HOST:PORT.

    RAY_ADDRESS stands in the environment from the first use on, so child processes join it.
    """
    with ray_session(num_cpus=4) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_road() -> RoadConfig:
    """The whole road at its smallest: 7 training studies of 12 patients, seconds for each step."""
    from llava_ultra.testing import tiny_config

    model = tiny_config().model_dump()
    model["clip"]["image_size"] = 64  # 16 tokens: features outweigh the frame of their file
    model["lora"]["dropout"] = 0.1  # randomness, which a resumed training has to repeat
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 12, "image_size": 64, "images": [1, 2]},
            "ingest": {"splits": {"train": 0.6, "validation": 0.15, "test": 0.25}},
            "model": model,
            "bootstrap": {
                "language": {"steps": 6, "batch_size": 4},
                "clip": {"steps": 4, "batch_size": 4},
                "sam": {"steps": 4, "batch_size": 4},
            },
            "embed": {"batch_size": 9},
            "train": {
                "stages": [
                    {"name": "align", "epochs": 2, "learning_rate": 2e-3},
                    {"name": "instruct", "epochs": 2, "learning_rate": 2e-3, "lora": True},
                ],
                "studies_per_step": 3,
            },
            "evaluate": {"max_tokens": 8, "bootstrap_samples": 1000},
        }
    )


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find a folder of the public data beside the repository; skip where there is none."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"no public data at {folder}")
        return folder

    return find
