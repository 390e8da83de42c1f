from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.cine import CineUnit, guard_of_videos, is_video
from sonoray.ingest.units import read_units
from sonoray.study.raw import RawImage, RawStudy


def test_frames_stand_where_their_video_does_and_pictures_stay(tmp_path):
    """What the videos name is not there, which is fast."""
    names = ("a.avi", "b.png", "c.mp4")
    listed = RawStudy(
        ref="s",
        patient_ref="p",
        images=tuple(RawImage(ref=name, data=tmp_path / name) for name in names),
        turns=(),
    )
    videos = {name: (tmp_path / name,) for name in ("a.avi", "c.mp4")}
    unit = CineUnit(listed=listed, videos=videos, config=VideoConfig())
    assert len(unit.calls) == 2
    with guard_of_videos(VideoConfig()).open(1) as pool:
        (study,) = read_units([unit], pool, ahead=1)
    assert [image.ref for image in study.images] == list(names)
    problems = [image.problem.partition(":")[0] for image in study.images]
    assert problems == ["unreadable_file", "", "unreadable_file"]


def test_a_name_tells_whether_it_is_a_video():
    assert [
        name for name in ("a.MP4", "b/c.gif", "d.png", "mp4", "e.avi.txt") if is_video(name)
    ] == [
        "a.MP4",
        "b/c.gif",
    ]
