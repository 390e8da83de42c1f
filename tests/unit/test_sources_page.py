"""The sources page: its table names every source, and its example works as it stands."""

import inspect
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sonoray.images.loops import SUFFIXES, VIDEOS
from sonoray.images.video import VideoConfig, read_video
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


CODINGS = {
    "H.264": ("libx264", "yuv420p", "yuv420p10le"),
    "HEVC": ("libx265", "yuv420p", "yuv420p10le"),
    "AV1": ("libsvtav1", "yuv420p", "yuv420p10le"),
    "VP8": ("libvpx", "yuv420p"),
    "VP9": ("libvpx-vp9", "yuv420p"),
    "ProRes": ("prores_ks", "yuv422p10le"),
    "MPEG-1": ("mpeg1video", "yuv420p"),
    "MPEG-2": ("mpeg2video", "yuv420p"),
    "MPEG-4": ("mpeg4", "yuv420p"),
    "MS-MPEG-4": ("msmpeg4", "yuv420p"),
    "WMV 1": ("wmv1", "yuv420p"),
    "MJPEG": ("mjpeg", "yuvj420p"),
    "FFV1": ("ffv1", "bgr0", "gray", "gray16le"),
    "HuffYUV": ("huffyuv", "yuv422p"),
    "Ut Video": ("utvideo", "gbrp"),
    "Cinepak": ("cinepak", "rgb24"),
    "MS Video 1": ("msvideo1", "rgb555le"),
    "Animation": ("qtrle", "rgb24"),
    "PNG": ("png", "rgb24"),
    "uncompressed": ("rawvideo", "uyvy422"),
    "GIF": ("gif", "rgb8"),
}
"""By its name on the page: the encoder, and the pixel formats that are tried."""
OPTIONS = {
    "libx265": {"x265-params": "log-level=none:pools=1"},
    "libsvtav1": {"svtav1-params": "lp=1"},
}


def codings():
    """Container, coding and pixel format of everything that the page says is tested."""
    rows = re.findall(r"^\| `(\.\w+)` \| ([^`|]+) \|$", PAGE, re.MULTILINE)
    for suffix, names in rows:
        for name in names.split(", "):
            encoder, *formats = CODINGS[name]
            yield from ((suffix, encoder, pixel_format) for pixel_format in formats)


def test_every_ending_that_is_read_is_on_the_page():
    assert {suffix for suffix, _, _ in codings()} == set(VIDEOS)
    section = PAGE.partition("### Other boxes")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`\..*?) \|", section, re.MULTILINE)
    assert set(re.findall(r"`(\.[\w.]+)`", " ".join(first_cells))) == set(SUFFIXES)


@pytest.mark.parametrize(("suffix", "encoder", "pixel_format"), list(codings()))
def test_every_coding_on_the_page_is_read(tmp_path, suffix, encoder, pixel_format):
    """Thirty frames, each 8 brighter than the last; GIF has 8 levels of grey, MS Video 1 has 32."""
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options=OPTIONS.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for value in range(0, 240, 8):
            pixels = np.full((48, 64, 3), value, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    loop = read_video(path, VideoConfig(max_frames=3))
    assert [frame.index for frame in loop.frames] == [5, 15, 25]
    assert loop.notes == ()
    tolerance = {"gif": 24, "msvideo1": 8}.get(encoder, 3)
    shown = [int(frame.pixels[20, 20, 1]) for frame in loop.frames]
    assert shown == pytest.approx([40, 120, 200], abs=tolerance)


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
