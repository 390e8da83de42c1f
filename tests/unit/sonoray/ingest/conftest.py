"""Fixtures of the sources' tests: the shared data, and pictures."""

import numpy as np
import pytest
from PIL import Image

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.workspace import Workspace


@pytest.fixture
def picture():
    """Write a picture of noise, another for every seed; its path."""

    def write(path, seed=0, size=(48, 40)):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def summary_of(tmp_path):
    """Ingest a source into a workspace of the test; its summary."""

    def summarise(source):
        workspace = Workspace.open(tmp_path / "workspace")
        return ingest(source, workspace, IngestConfig()).manifest["summary"]

    return summarise
