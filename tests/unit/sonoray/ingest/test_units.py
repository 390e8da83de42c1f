"""Units: what waits, and in which order studies come."""

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from sonoray.ingest.sources.video_folder import VideoSource
from sonoray.ingest.units import NO_GUARD, read_units
from sonoray.study.raw import RawStudy

AHEAD: list[int] = []
BEGUN: list[int] = []


@dataclass(frozen=True)
class Counting:
    """A unit that notes how many were begun when it is built."""

    number: int
    objects: int

    @property
    def calls(self):
        BEGUN.append(self.number)
        return [int] * self.objects

    def build(self, decoded: list[Future[int]], pool) -> RawStudy:
        AHEAD.append(len(BEGUN) - self.number)
        assert [each.result() for each in decoded] == [0] * self.objects
        return RawStudy(ref=str(self.number), patient_ref="p", images=(), turns=())


@pytest.mark.parametrize(("objects", "most_ahead"), [(0, 3), (1, 3), (5, 2)])
def test_studies_of_many_objects_wait_for_each_other(objects, most_ahead):
    AHEAD.clear()
    BEGUN.clear()
    with NO_GUARD.open(2) as pool:
        studies = list(read_units([Counting(n, objects) for n in range(6)], pool, ahead=2))
    assert [study.ref for study in studies] == [str(number) for number in range(6)]
    assert max(AHEAD) == most_ahead


def test_a_unit_names_files_and_holds_no_pixels(tmp_path):
    """Whatever the size of the video, what is sent to another process stays small."""
    import pickle

    (tmp_path / "p").mkdir()
    Path(tmp_path, "p", "a.avi").write_bytes(bytes(1_000_000))
    source = VideoSource(tmp_path)
    with source.guard.open(1) as pool:
        (unit,) = source.iter_units(pool)
    assert len(pickle.dumps(unit)) < 3000
