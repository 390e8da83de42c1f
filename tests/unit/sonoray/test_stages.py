import hashlib
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from sonoray.errors import DataError
from sonoray.stages import (
    MANIFEST,
    Stage,
    file_digests,
    find_stage,
    find_tries,
    keep_equal,
    read_manifest,
    run_stage,
)


def stage(**changes):
    return Stage(**{"name": "ingest-x", "config": {"seed": 1}, "inputs": ["abc"], **changes})


def make(folder):
    (folder / "part.txt").write_text("hello")
    (folder / "deep").mkdir()
    (folder / "deep" / "other.txt").write_text("there")
    return {"rows": 2}


def test_the_first_run_makes_and_the_second_reuses(tmp_path):
    first = run_stage(stage(), tmp_path, make)
    second = run_stage(stage(), tmp_path, lambda folder: pytest.fail("made twice"))
    assert (first.reused, second.reused) == (False, True)
    assert first.path == second.path
    assert second.manifest["summary"] == {"rows": 2}
    assert second.key == stage().key
    assert set(second.manifest["files"]) == {"part.txt", "deep/other.txt"}
    assert second.manifest["files"] == {
        name: digest for name, digest in file_digests(second.path).items() if name != MANIFEST
    }


def test_digests_of_large_files_take_little_memory(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    try:
        digests = file_digests(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert digests == {"large": hashlib.sha256(bytes(50_000_000)).hexdigest()}


def test_another_try_has_its_own_key_and_counts_until_it_is_no_better(tmp_path):
    def find():
        return find_tries(stage(), tmp_path, lambda summary: summary["faults"] > 0)

    def run(tried, faults):
        def write(folder):
            (folder / "part.txt").write_text(str(faults))
            return {"faults": faults}

        return run_stage(tried, tmp_path, write)

    assert find() == (stage(), stage())
    run(stage(), 2)
    last, following = find()
    assert last == stage()
    assert following.key != last.key
    same = keep_equal(last, run(following, 2))
    assert (same.key, same.reused, find()) == (last.key, True, (last, following))
    assert not following.path(tmp_path).exists()
    better = keep_equal(last, run(following, 1))
    assert better.key == following.key
    assert find()[0] == following
    third = find()[1]
    run(third, 0)
    assert find() == (third, third)
    assert keep_equal(third, run(third, 0)).path == third.path(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "ingest-y"},
        {"config": {"seed": 2}},
        {"inputs": ["abd"]},
        {"code": ["sonoray.study.splits"]},
    ],
)
def test_any_change_is_another_stage(tmp_path, changes):
    run_stage(stage(), tmp_path, make)
    assert not run_stage(stage(**changes), tmp_path, make).reused


def test_other_code_is_another_stage(monkeypatch):
    given = stage(code=["sonoray.study.prompt", "sonoray.study.splits"])
    before = given.key
    assert given.key == before
    monkeypatch.setattr("sonoray.stages.code_digest", lambda *entries: "-".join(entries))
    assert given.key != before
    assert given.key != stage(code=["sonoray.study.prompt"]).key


def test_a_failed_stage_leaves_nothing_behind(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise DataError("no")

    with pytest.raises(DataError):
        run_stage(stage(), tmp_path, fail)
    assert list(tmp_path.iterdir()) == []
    assert not run_stage(stage(), tmp_path, make).reused


def test_two_makers_of_one_stage_agree_on_one_output(tmp_path):
    barrier = threading.Barrier(2)
    outputs = []

    def slow(folder):
        barrier.wait(timeout=10)
        return make(folder)

    threads = [
        threading.Thread(target=lambda: outputs.append(run_stage(stage(), tmp_path, slow)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2
    assert len({output.path for output in outputs}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [outputs[0].path.name]


MAKE_SLOWLY = """
import sys, time
from pathlib import Path
from sonoray.stages import Stage, run_stage
def make(folder):
    (folder / "pixels").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
run_stage(Stage(name="slow", config={}), Path(sys.argv[1]), make)
"""


def test_what_a_killed_maker_left_goes_with_the_next_run_and_a_living_one_stays(tmp_path):
    first = run_stage(stage(), tmp_path, make)
    with subprocess.Popen(
        [sys.executable, "-c", MAKE_SLOWLY, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        partial = Path(process.stdout.readline().strip())
        for lock in partial.parent.glob(".*"):  # make it look an hour old
            os.utime(lock, (lock.stat().st_mtime - 3600,) * 2)
        assert run_stage(stage(), tmp_path, make).reused
        run_stage(stage(name="other"), tmp_path, make)
        assert (partial / "pixels").is_file()
        process.send_signal(signal.SIGKILL)
    assert (partial / "pixels").is_file()
    assert run_stage(stage(), tmp_path, make).reused
    assert {path.name for path in tmp_path.iterdir()} == {
        first.path.name,
        stage(name="other").path(tmp_path).name,
    }
    assert {path.name for path in first.path.iterdir()} == {"part.txt", "deep", MANIFEST}


def test_a_stage_that_was_never_made_names_the_command(tmp_path):
    with pytest.raises(DataError, match="run: sonoray ingest x"):
        find_stage(stage(), tmp_path, fix="sonoray ingest x")
    made = run_stage(stage(), tmp_path, make)
    assert find_stage(stage(), tmp_path, fix="").path == made.path


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="remove the folder"):
        read_manifest(tmp_path)
