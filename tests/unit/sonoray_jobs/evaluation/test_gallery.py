"""The gallery on images and predictions written here: what it shows, and with which font."""

from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sonoray.images.decode import encode_png
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import IMAGE_SCHEMA
from sonoray_jobs.evaluation import gallery
from sonoray_jobs.evaluation.gallery import draw_study, make_gallery, spaced

LATIN = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def prediction(study, *, images, **values):
    return {
        "study_id": study,
        "topic": "pathology",
        "task": "closed",
        "question": "病灶是良性还是恶性？",
        "answer": "良性",
        "truth": "恶性",
        "image_ids": images,
        "image_scores": [0.75, 0.25],
        "showing": [-1, -1],
        "selected": [0],
    } | values


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    rows = [
        {
            "image_id": f"i{number}", "width": 24, "height": 16, "mask_png": None,
            "png": encode_png(np.full((16, 24), 40 * number, np.uint8)),
        }
        for number in range(6)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    pq.write_table(table, folder / "images" / "part-00000.parquet")
    return folder


@pytest.fixture
def evaluation(tmp_path) -> StageOutput:
    rows = [
        prediction(f"s{number}", images=[f"i{2 * number}", f"i{2 * number + 1}"], topic=topic)
        for number in range(3)
        for topic in ("pathology", "side")
    ]

    def make(folder: Path) -> dict[str, int]:
        pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
        return {}

    return run_stage(Stage(name="evaluate-phantom-test", config={}), tmp_path / "stages", make)


def test_studies_are_spaced_evenly():
    assert spaced(list("abcdefghi"), 3) == ["b", "e", "h"]
    assert spaced(list("abc"), 9) == ["a", "b", "c"]
    assert spaced([], 3) == []


def test_pictures_and_texts_of_every_chosen_study(evaluation, dataset, tmp_path):
    made = make_gallery(evaluation, dataset, tmp_path / "stages", num_studies=2)
    assert made.path.parent == evaluation.path.parent
    assert made.path.name.startswith("gallery-phantom-test-")
    assert made.manifest["summary"]["num_studies"] == 2
    page = (made.path / "gallery.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Study s0",
        "## Study s2",
    ]
    assert page.count("问: 病灶是良性还是恶性？") == 4
    for name in ("study-01.png", "study-02.png"):
        assert f"({name})" in page
        with Image.open(made.path / name) as picture:
            assert picture.width > 600
    assert make_gallery(evaluation, dataset, tmp_path / "stages", num_studies=2).reused
    other = make_gallery(evaluation, dataset, tmp_path / "stages", num_studies=1)
    assert not other.reused
    assert other.path != made.path


def drawn(path, *, font=LATIN, images=2, **values):
    row = prediction("s", images=[], question="what", answer="b", truth="b", **values)
    pictures = [np.full((16, 24), 90, np.uint8)] * images
    draw_study(pictures, [row], path, font)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def share(pixels, colour):
    return (np.abs(pixels - np.array(colour)).max(axis=2) < 8).mean()


@pytest.mark.filterwarnings("ignore:Glyph")  # 问 and the like, in a font that lacks them
def test_a_seen_image_has_a_dark_bar_and_a_wrong_answer_is_red(tmp_path):
    dark, light, red = (31, 119, 180), (176, 196, 222), (214, 39, 40)
    first = drawn(tmp_path / "a.png")
    assert share(first, dark) > 2.5 * share(first, light) > 0  # bars of 0.75 and 0.25
    second = drawn(tmp_path / "b.png", selected=[1])
    assert share(second, light) > 2.5 * share(second, dark) > 0
    assert share(first, red) == 0
    wrong = {"truth": "c"}
    row = prediction("s", images=[], question="what", answer="b", **wrong)
    draw_study([np.zeros((16, 24), np.uint8)] * 2, [row], tmp_path / "c.png", LATIN)
    with Image.open(tmp_path / "c.png") as picture:
        assert share(np.asarray(picture.convert("RGB")).astype(int), red) > 0


@pytest.mark.filterwarnings("ignore:Glyph")
def test_images_that_show_the_finding_are_framed(tmp_path):
    green = (44, 160, 44)
    unknown = drawn(tmp_path / "a.png")
    one = drawn(tmp_path / "b.png", showing=[0, 1])
    both = drawn(tmp_path / "c.png", showing=[1, 1])
    assert share(unknown, green) == 0
    assert share(both, green) == pytest.approx(2 * share(one, green), rel=0.1)
    frame = (np.abs(one - np.array(green)).max(axis=2) < 8).any(axis=0).nonzero()[0]
    middle = drawn(tmp_path / "d.png", showing=[1, 0])
    other = (np.abs(middle - np.array(green)).max(axis=2) < 8).any(axis=0).nonzero()[0]
    assert other.max() < frame.min()  # the first image stands left of the second


@pytest.mark.filterwarnings("ignore:Glyph")
def test_bars_are_drawn_as_often_as_the_scores_change(tmp_path):
    dark = (31, 119, 180)
    alike = [prediction("s", images=[]) for _ in range(3)]
    other = [*alike[:2], prediction("s", images=[], selected=[0, 1])]
    bars = {}
    for name, rows in {"one": alike[:1], "alike": alike, "other": other}.items():
        draw_study([np.zeros((16, 24), np.uint8)] * 2, rows, tmp_path / "a.png", LATIN)
        with Image.open(tmp_path / "a.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        bars[name] = (np.abs(pixels - np.array(dark)).max(axis=2) < 8).sum()
    assert bars["alike"] == pytest.approx(bars["one"], rel=0.05)
    assert bars["other"] == pytest.approx(bars["one"] * (1 + 1 / 0.75), rel=0.1)


def test_without_a_font_the_picture_says_so_and_draws_no_sign_it_lacks(tmp_path, recwarn):
    row = prediction("s", images=[])
    draw_study([np.zeros((16, 24), np.uint8)] * 2, [row], tmp_path / "a.png", None)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    draw_study([np.zeros((16, 24), np.uint8)] * 2, [row], tmp_path / "b.png", LATIN)
    assert [w for w in recwarn if "Glyph" in str(w.message)]  # the sign of what is avoided


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_font_that_was_found_since_makes_it_anew(evaluation, dataset, tmp_path, monkeypatch):
    galleries = []
    for font in (None, LATIN):
        monkeypatch.setattr(gallery, "find_font", lambda texts, font=font: font)
        galleries.append(make_gallery(evaluation, dataset, tmp_path / "stages", num_studies=1))
    assert [made.manifest["summary"]["has_texts"] for made in galleries] == [False, True]
    assert galleries[0].path != galleries[1].path
