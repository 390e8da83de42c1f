import pytest

from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.cine import is_video, with_loops
from sonoray.study.raw import RawStudy


@pytest.mark.parametrize(("loops_each", "most_ahead"), [(0, 3), (1, 3), (5, 2)])
def test_studies_of_many_loops_wait_for_each_other(tmp_path, monkeypatch, loops_each, most_ahead):
    """On two cores; their frames would wait decoded. What they name is not there, which is fast."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun: list[int] = []
    ahead: list[int] = []

    def videos(number):
        begun.append(number)
        return {f"{number}/{loop}.avi": (tmp_path / "gone.avi",) for loop in range(loops_each)}

    def build(number, loops):
        ahead.append(len(begun) - number)
        images = tuple(image for loop in loops.values() for image in loop.images)
        return RawStudy(ref=str(number), patient_ref="p", images=images, turns=())

    studies = list(with_loops(range(6), videos, build, VideoConfig()))
    assert [study.ref for study in studies] == [str(number) for number in range(6)]
    assert max(ahead) == most_ahead
    for study in studies:
        problems = [image.problem.partition(":")[0] for image in study.images]
        assert problems == ["unreadable_file"] * loops_each


def test_a_name_tells_whether_it_is_a_video():
    assert [
        name for name in ("a.MP4", "b/c.gif", "d.png", "mp4", "e.avi.txt") if is_video(name)
    ] == [
        "a.MP4",
        "b/c.gif",
    ]
