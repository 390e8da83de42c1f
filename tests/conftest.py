"""Fixtures of the whole suite: one Ray per test run, and the public data beside the repository."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sonoray.cluster import ray_session

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """One private Ray with four logical CPUs for all tests; its address, HOST:PORT.

    RAY_ADDRESS stands in the environment from the first use on, so child processes join it.
    """
    with ray_session(num_cpus=4) as address:
        yield address


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find a folder of the public data beside the repository; skip where there is none."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"no public data at {folder}")
        return folder

    return find
