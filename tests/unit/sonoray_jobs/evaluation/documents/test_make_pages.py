"""Pages as files: which captures there are, texts of a dataset, what is refused."""

import json

import numpy as np
import pytest

from sonoray.documents.document_config import DocumentsConfig
from sonoray.documents.page_drawing import DrawnPage
from sonoray.documents.page_folder import read_pages
from sonoray.errors import ConfigError, DataError
from sonoray.images.fonts import find_font
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.documents import make_pages
from sonoray_jobs.evaluation.documents.make_pages import conditions
from sonoray_jobs.road.config import RoadConfig


def test_a_screenshot_has_no_strength():
    assert conditions(DocumentsConfig(strengths=(0.5, 1, 0.5), kinds=("scan", "screenshot"))) == [
        ("scan", 0.5),
        ("scan", 1),
        ("screenshot", 0),
    ]


def test_pages_are_the_same_for_a_seed(tmp_path):
    if find_font(["超声检查报告单↑↓"]) is None:
        pytest.skip("no font with Chinese: apt-get install fonts-noto-cjk")
    road = RoadConfig.model_validate({"documents": {"records": 2, "strengths": [0.5]}})
    workspace = Workspace.open(tmp_path)
    made = make_pages.run(workspace=workspace, road=road)
    again = make_pages.run(workspace=workspace, road=road, out=tmp_path / "again")
    assert (made.num_reports, made.num_pages) == (2, 6)
    pages = read_pages(workspace.root / "pages")
    assert pages == read_pages(tmp_path / "again")
    assert made.num_questions == again.num_questions == sum(len(page.questions) for page in pages)
    assert [page.name for page in pages[:3]] == [
        "pages/00000-screenshot.png",
        "pages/00000-scan-0.5.png",
        "pages/00000-photo-0.5.png",
    ]
    assert len({page.record for page in pages}) == 2
    assert len({page.data for page in pages}) == 6
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        make_pages.run(workspace=workspace, road=road, out=tmp_path / "file" / "below")
    with pytest.raises(DataError, match="absent"):
        make_pages.run(workspace=workspace, road=road, dataset="absent")


def test_pages_are_drawn_while_records_come(tmp_path, monkeypatch):
    page = make_pages._page(0, "ok", "p")
    blank = DrawnPage(pixels=np.full((8, 8), 255, np.uint8), lines=())

    def records(*_):
        yield page, []
        yield page, []
        raise DataError("the third record")

    monkeypatch.setattr(make_pages, "draw_page", lambda _: blank)
    monkeypatch.setattr(make_pages, "iter_records", records)
    road = RoadConfig.model_validate({"documents": {"kinds": ["screenshot"]}})
    given = {"workspace": Workspace.open(tmp_path), "road": road}
    with pytest.raises(DataError, match="the third record"):
        make_pages.run(**given)
    assert len(list((tmp_path / "pages" / "pages").iterdir())) == 2
    monkeypatch.setattr(make_pages, "iter_records", lambda *_: iter([(page, [])]))
    assert make_pages.run(**given).num_pages == 1  # into what was left behind


def study_of(number, split, report):
    image = StudyImage(image_id=f"i{number}", uri="", width=8, height=8)
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split=split, dataset="d", images=(image,),
        turns=(Turn(question="报告？", answer=report, task=Task.REPORT),),
    )  # fmt: skip


@pytest.fixture
def workspace(tmp_path):
    """A dataset of a report for training, one of two lines, a blank one and one too long."""
    found = Workspace.open(tmp_path / "workspace")
    folder = found.stages / "ingest-d"
    folder.mkdir(parents=True)
    write_studies(
        folder,
        [
            study_of(0, "train", "左叶见囊肿。"),
            study_of(1, "test", "右叶见结节。\u2028边缘光滑。"),
            study_of(2, "test", " \n"),
            study_of(3, "test", "结节。\n" * 30),
        ],
    )
    (folder / "manifest.json").write_text("{}")
    (found.root / "datasets").mkdir()
    (found.root / "datasets" / "d.json").write_text(json.dumps({"stage": folder.name, "key": ""}))
    return found


def test_reports_of_the_test_split_become_pages(workspace, tmp_path):
    if find_font(["超声检查报告单↑↓"]) is None:
        pytest.skip("no font with Chinese: apt-get install fonts-noto-cjk")
    road = RoadConfig.model_validate({"documents": {"kinds": ["screenshot"]}})
    given = {"workspace": workspace, "road": road, "dataset": "d"}
    made = make_pages.run(**given, out=tmp_path / "test")
    assert (made.num_reports, made.num_too_long) == (1, 1)
    (page,) = read_pages(tmp_path / "test")
    assert page.record == "p1"
    assert page.lines[3:5] == (("右叶见结节。",), ("边缘光滑。",))
    made = make_pages.run(**given, split="all", out=tmp_path / "all")
    assert (made.num_reports, made.num_too_long) == (2, 1)
    assert {page.record for page in read_pages(tmp_path / "all")} == {"p0", "p1"}
    with pytest.raises(DataError, match=r"no report that fits a page \(split validation, 0 longer"):
        make_pages.run(**given, split="validation")
    with pytest.raises(DataError, match=r"'dev' is unknown; choose one of all, train, validation"):
        make_pages.run(**given, split="dev")
    with pytest.raises(ConfigError, match="--split test is of a dataset"):
        make_pages.run(**{**given, "dataset": None}, split="test")
