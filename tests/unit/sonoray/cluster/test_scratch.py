"""Scratch folders: private, gone at the end, and swept after a process that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sonoray.cluster.scratch import remove_abandoned, scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from sonoray.cluster.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "pixels").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def age(folder: Path) -> None:
    """Make a folder look an hour old."""
    lock = folder / ".sonoray-scratch"
    os.utime(lock, (lock.stat().st_mtime - 3600,) * 2)


def test_it_is_private_and_gone_at_the_end(tmp_path: Path):
    with scratch_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "inner").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_exception(tmp_path: Path):
    with pytest.raises(RuntimeError), scratch_folder(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        age(folder)
        assert remove_abandoned(tmp_path) == []
        process.send_signal(signal.SIGKILL)
    assert (folder / "pixels").exists()
    with scratch_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_a_young_folder_and_one_that_is_not_ours_stay(tmp_path: Path):
    young, other = tmp_path / "sonoray-young", tmp_path / "sonoray-my-data"
    for folder in (young, other):
        folder.mkdir()
    (young / ".sonoray-scratch").touch()
    (other / "study.json").touch()
    assert remove_abandoned(tmp_path) == []
    assert young.is_dir()
    assert (other / "study.json").is_file()
