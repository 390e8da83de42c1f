"""The batches of an ingest and the actor that prepares them, without Ray."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonoray.errors import ClusterError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.prepare import Preparation, prepare_all
from sonoray.ingest.prepared_parts import part_name, read_part
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.ingest.sources.table import TableSource
from sonoray.ingest.units import guard_of
from sonoray.phantom import PhantomConfig
from sonoray.privacy.keys import IdentityKey
from sonoray_jobs.data.ingest_pipeline import BatchActor, Work, list_batches

CONFIG = IngestConfig(burned_in_text="keep")


def write_table(folder: Path, num_studies: int = 20) -> TableSource:
    """Two pictures a study; the third study also names a loop, the fourth what is not there."""
    lines = ["study,patient,images,report"]
    for number in range(num_studies):
        names = []
        for view in range(2):
            pixels = np.random.default_rng(2 * number + view).integers(0, 256, (40, 48), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}-{view}.png")
            names.append(f"{number}-{view}.png")
        names += {2: ["loop.gif"], 3: ["gone.png"]}.get(number, [])
        lines.append(f"s{number},p{number},{';'.join(names)},未见异常")
    frames = np.random.default_rng(9).integers(0, 256, (5, 40, 48), np.uint8)
    first, *others = map(Image.fromarray, frames)
    first.save(folder / "loop.gif", save_all=True, append_images=others)
    (folder / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    return TableSource(folder / "studies.csv")


def list_work(source, folder: Path, places=()) -> int:
    """List the batches of a source as the driver does."""
    folder.mkdir(mode=0o700)
    preparation = Preparation.of(source, IdentityKey(b"k" * 32), CONFIG.images, CONFIG)
    work = Work(
        preparation=preparation, guard=guard_of(source), cwd=Path.cwd(), places=tuple(places)
    )
    (folder / "work.pickle").write_bytes(pickle.dumps(work))
    return list_batches(source, work, folder)


@pytest.mark.parametrize("kind", ["table", "phantom"])
def test_batches_hold_what_one_process_prepares(tmp_path, kind):
    if kind == "table":
        source = write_table(tmp_path)
    else:
        source = PhantomSource(PhantomConfig(num_patients=20))
    folder = tmp_path / "parts"
    count = list_work(source, folder)
    assert count > 1
    actor = BatchActor(folder)
    for number in reversed(range(count)):
        actor({"batch": number})
    parts = [study for n in range(count) for study in read_part(folder / part_name(n))]
    preparation = Preparation.of(source, IdentityKey(b"k" * 32), CONFIG.images, CONFIG)
    assert parts == list(prepare_all(source, preparation))
    assert not list(folder.glob("*.tried"))


def test_a_batch_names_files_and_a_finished_one_is_not_read_again(tmp_path):
    folder = tmp_path / "parts"
    count = list_work(write_table(tmp_path), folder)
    listed = [folder / part_name(number) for number in range(count)]
    assert all(path.with_suffix(".units").stat().st_size < 20_000 for path in listed)
    listed[0].write_bytes(b"stands already")
    BatchActor(folder)({"batch": 0})
    assert listed[0].read_bytes() == b"stands already"


KILLER = """
import os, pathlib, signal

class KillingPath(type(pathlib.Path())):
    def open(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_study_that_kills_its_worker_is_quarantined_and_the_others_go_on(tmp_path, monkeypatch):
    """The marker of an actor that was lost with the batch lies there."""
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from killer import KillingPath

    source = write_table(tmp_path, num_studies=3)
    folder = tmp_path / "parts"
    assert list_work(source, folder) == 1
    path = folder / part_name(0)
    units = pickle.loads(path.with_suffix(".units").read_bytes())
    images = units[1].listed.images
    object.__setattr__(images[0], "data", KillingPath(images[0].data))
    path.with_suffix(".units").write_bytes(pickle.dumps(units))
    path.with_suffix(".tried").touch()
    BatchActor(folder)({"batch": 0})
    good, bad, last = read_part(path)
    assert not good.problem
    assert len(last.outcomes) == 7  # two pictures, five frames
    assert not last.problem
    assert bad.problem.startswith("decoder_crashed: the process ended with -9")
    assert [each.problem.partition(":")[0] for each in bad.outcomes] == ["decoder_crashed"] * 2
    assert bad.turns == ()


def test_a_worker_that_does_not_see_the_source_says_so(tmp_path):
    source = write_table(tmp_path, num_studies=1)
    folder = tmp_path / "parts"
    list_work(source, folder, places=[tmp_path / "studies.csv", tmp_path / "not mounted"])
    with pytest.raises(ClusterError, match=f"{os.uname().nodename} does not see .*not mounted"):
        BatchActor(folder)
