"""Pages as files: which captures there are, texts of a dataset, what is refused."""

import pytest

from sonoray.documents.document_config import DocumentsConfig
from sonoray.documents.page_folder import read_pages
from sonoray.errors import DataError
from sonoray.images.fonts import find_font
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
