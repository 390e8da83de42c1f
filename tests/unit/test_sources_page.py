"""The sources page: its table names every source, and its example works as it stands."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.known_sources import KNOWN_SOURCES
from sonoray.workspace import Workspace

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")


def test_the_table_has_one_row_for_every_source():
    table = PAGE.partition("\n\n## ")[0]
    assert sorted(re.findall(r"^\| `sonoray ingest ([a-z]+)", table, re.MULTILINE)) == sorted(
        KNOWN_SOURCES
    )


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Import the page's code from a file, as a module would be."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "notes_example.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import notes_example

    assert inspect.getsource(notes_example) == code
    return notes_example.NotesSource


def test_the_example_reads_studies_and_accounts_for_the_bad_ones(example, tmp_path):
    for seed, patient in enumerate(("p1", "p2", "p3")):
        folder = tmp_path / "notes" / patient
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        (folder / "a.txt").write_text(f"未见异常，{patient}。", encoding="gb18030")
    (tmp_path / "notes" / "p2" / "a.txt").write_bytes(b"")
    (tmp_path / "notes" / "p3" / "a.png").unlink()
    source = example(tmp_path / "notes")
    output = ingest(source, Workspace.open(tmp_path / "workspace"), IngestConfig())
    summary = output.manifest["summary"]
    assert summary["studies"] == {"seen": 3, "kept": 1, "duplicate": 0, "quarantined": 2}
    assert summary["reasons"] == {
        "empty_study": 1, "missing_file": 1, "study_rejected": 1, "unreadable_file": 1,
    }  # fmt: skip
