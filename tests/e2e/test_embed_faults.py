"""Embed jobs whose driver, actors or nodes die for real, on disks that fail for real.

The store must not show it. `bench/data/embed_faults.py` kills at random moments, many times.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sonoray.errors import DataError
from sonoray.workspace import Workspace
from sonoray_jobs.cluster.failures import find_failure
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import embed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BENCH = Path(__file__).resolve().parents[2] / "bench" / "data"
DATASET = "phantom"
PATIENCE_S = 300.0

DRIVER = """
import sys
from pathlib import Path
from sonoray.workspace import Workspace
from sonoray_jobs.towers import embed
from sonoray_jobs.cluster.failures import find_failure
from sonoray_jobs.road.config import RoadConfig

road = RoadConfig.model_validate_json(sys.argv[2])
try:
    embed.run(workspace=Workspace.open(Path(sys.argv[1])), road=road, dataset="phantom")
except Exception as error:
    sys.exit(find_failure(error).message)
"""

FAILING_FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int calls;

int fsync(int descriptor) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *folder = getenv("FAILING_FOLDER");
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, folder, strlen(folder))) {
        int later = ++calls - atoi(getenv("FAILING_AFTER"));
        if (later > 0 && later <= atoi(getenv("FAILING_TIMES"))
            && !ftruncate(descriptor, 0)) {
            FILE *log = fopen(getenv("FAILING_LOG"), "a");
            fprintf(log, "%s\n", path);
            fclose(log);
            errno = EIO;
            return -1;
        }
    }
    return sync(descriptor);
}
"""
"""A C library's fsync that answers EIO for files of a folder, so many times in each process.

What was written is gone then, as on Linux, which may drop the pages and say of the next fsync that
all is well: only a file that is written anew is whole.
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S} s"
        time.sleep(0.005)


def batches(workspace: Workspace) -> dict[str, bytes]:
    """Every committed batch: its tower and name, and its bytes."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in workspace.features.rglob("batch-*.arrow")
    }


@pytest.fixture(scope="module")
def road(finished_road) -> RoadConfig:
    """Files of two images, so that there are many to be killed between; computed one by one."""
    sizes = {"embed.batch_size": 1, "embed.images_per_file": 2}
    return with_values(finished_road.road, {**sizes, "embed.actors": 1})


@pytest.fixture(scope="module")
def whole(finished_road, road, tmp_path_factory) -> dict[str, bytes]:
    """The batches of a job that nothing disturbed."""
    workspace = finished_road.copy(tmp_path_factory.mktemp("whole"), "datasets", "stages")
    embedded = embed.run(workspace=workspace, road=road, dataset=DATASET)
    assert set(embedded.num_computed.values()) == {embedded.num_images}
    made = batches(workspace)
    assert len(made) > 8
    return made


@pytest.mark.parametrize("after", [1, 5])
def test_a_killed_driver_leaves_whole_batches_and_the_next_goes_on(
    finished_road, road, whole, tmp_path, after
):
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    command = [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(batches(workspace)) >= after or driver.poll() is not None, "batch")
        driver.send_signal(signal.SIGKILL)
        _, errors = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, errors
    left = batches(workspace)
    assert left.items() <= whole.items()
    again = embed.run(workspace=workspace, road=road, dataset=DATASET)
    assert batches(workspace) == whole
    # The dead driver's actors may have committed a batch more between the look and their end.
    assert sum(again.num_computed.values()) < 2 * again.num_images
    assert set(
        embed.run(workspace=workspace, road=road, dataset=DATASET).num_computed.values()
    ) == {0}


def test_a_killed_actor_is_replaced_and_the_job_ends_well(finished_road, road, whole, tmp_path):
    from ray._private.state import actors  # the public API needs the dashboard

    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    before = {actor["ActorID"] for actor in actors().values()}
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: batches(workspace), "batch")
        living = [
            actor["Pid"]
            for actor in actors().values()
            if actor["ActorID"] not in before
            and "MapWorker" in actor["ActorClassName"]
            and actor["State"] == "ALIVE"
        ]
        os.kill(living[0], signal.SIGKILL)
        killed.append(living[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    embedded = embed.run(workspace=workspace, road=road, dataset=DATASET)
    killer.join()
    assert killed
    assert batches(workspace) == whole
    assert set(embedded.num_computed.values()) == {embedded.num_images}


def test_a_job_survives_the_death_of_a_node(tmp_path):
    """A raylet of a two-node cluster dies; the script compares the store with an undisturbed one.

    It also sees to it that the job goes on by itself and begins no committed batch again.
    """
    sizes = ["--kills", "1", "--kinds", "raylet", "--images", "30", "--batch", "2"]
    command = [sys.executable, str(BENCH / "embed_faults.py"), *sizes, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    (kill,) = json.loads((tmp_path / "embed_faults.json").read_text(encoding="utf-8"))["kills"]
    assert kill["kind"] == "raylet"
    assert kill["went_on"]


@contextlib.contextmanager
def file_system(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Give a folder a file system of its own; the function mounts it anew with other options."""
    folder.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        subprocess.run(command, check=True, capture_output=True)

    try:
        mount(f"size={size}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", folder], check=True)


def check_refusal(caught: pytest.ExceptionInfo[Exception], reason: str) -> None:
    """One line for the user: what failed, why, and that the same command goes on."""
    failure = find_failure(caught.value)
    assert failure is not None
    assert failure.message.endswith(
        f"({reason}); mend that and run: sonoray embed (what is committed stays)"
    )


def test_a_full_disk_ends_the_job_with_one_line_and_the_next_goes_on(
    finished_road, road, whole, tmp_path
):
    """One of half the size is refused before the job; on a large one another program fills it."""
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    half = f"{sum(map(len, whole.values())) // 2048}k"
    with file_system(workspace.features, half) as remount:
        with pytest.raises(DataError, match=r"features need .* the disk of .* set embed\.store"):
            embed.run(workspace=workspace, road=road, dataset=DATASET)
        assert not batches(workspace)
        remount("size=8m")
        others = workspace.features / "of another program"

        def fill() -> None:
            wait_for(lambda: batches(workspace), "batch")
            with contextlib.suppress(OSError), others.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        filler = threading.Thread(target=fill)
        filler.start()
        with pytest.raises(Exception, match="No space left on device") as caught:
            embed.run(workspace=workspace, road=road, dataset=DATASET)
        filler.join()
        check_refusal(caught, "No space left on device")
        left = batches(workspace)
        assert left
        assert left.items() < whole.items()
        others.unlink()
        embed.run(workspace=workspace, road=road, dataset=DATASET)
        assert batches(workspace) == whole


def test_a_disk_that_turns_read_only_ends_the_job_with_one_line_and_the_next_goes_on(
    finished_road, road, whole, tmp_path
):
    """As a kernel does to a file system in which it finds an error."""
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    with file_system(workspace.features, "64m") as remount:

        def turn() -> None:
            wait_for(lambda: batches(workspace), "batch")
            wait_for(lambda: try_to(remount, "ro"), "moment without a file open for writing")

        turner = threading.Thread(target=turn)
        turner.start()
        with pytest.raises(Exception, match="Read-only file system") as caught:
            embed.run(workspace=workspace, road=road, dataset=DATASET)
        turner.join()
        check_refusal(caught, "Read-only file system")
        left = batches(workspace)
        assert left
        assert left.items() <= whole.items()  # the last ones may just have come, but no seal
        remount("rw")
        embed.run(workspace=workspace, road=road, dataset=DATASET)
        assert batches(workspace) == whole


@pytest.fixture(scope="module")
def failing_fsync(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    source = tmp_path_factory.mktemp("failing") / "fsync.c"
    source.write_text(FAILING_FSYNC, encoding="ascii")
    command = [compiler, "-shared", "-fPIC", "-o", source.with_suffix(".so"), source, "-ldl"]
    subprocess.run(command, check=True)
    return source.with_suffix(".so")


@pytest.mark.parametrize(("failures", "lasts"), [(2, False), (1000, True)])
def test_a_store_that_answers_with_errors_is_tried_again_and_the_next_job_goes_on(
    finished_road, road, whole, failing_fsync, tmp_path, failures, lasts
):
    """Unlike a full or read-only disk, EIO may pass; it hits the actors after three commits each.

    The job has a Ray of its own, all of whose processes have the failing library.
    """
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    failing = {
        "LD_PRELOAD": str(failing_fsync),
        "RAY_LD_PRELOAD_ON_WORKERS": "1",
        "FAILING_FOLDER": str(workspace.features),
        "FAILING_LOG": str(tmp_path / "failures"),
        "FAILING_AFTER": "3",
        "FAILING_TIMES": str(failures),
    }
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json()],
        env=environment | failing,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == int(lasts), done.stderr
    left = batches(workspace)
    failed = (tmp_path / "failures").read_text(encoding="utf-8").splitlines()
    assert len(set(failed)) == len(failed)  # each try writes a file of its own
    if lasts:
        assert len(failed) >= 4
        assert done.stderr.splitlines()[-1].endswith(
            "(Input/output error); mend that and run: sonoray embed (what is committed stays)"
        )
        assert len(left) >= 3
        assert left.items() < whole.items()
    else:
        assert len(failed) == road.embed.actors * failures  # each process counts its own
        assert left == whole
    again = embed.run(workspace=workspace, road=road, dataset=DATASET)
    assert batches(workspace) == whole
    assert any(again.num_computed.values()) == lasts


def try_to(remount: Callable[[str], None], options: str) -> bool:
    """The kernel refuses while a file is open for writing."""
    try:
        remount(options)
    except subprocess.CalledProcessError:
        return False
    return True
