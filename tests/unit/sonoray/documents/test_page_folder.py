"""Folders of pages: what is written is read again, and what is no such folder is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from sonoray.documents.document_config import DocumentsConfig
from sonoray.documents.page_folder import DocumentPage, read_pages, write_pages
from sonoray.documents.report_page import PageQuestion
from sonoray.errors import DataError

PIXELS = np.full((32, 48), 200, np.uint8)
ASKED = {"page": "a.png", "question": "姓名？", "answer": "李四", "task": "entity"}
SECRET = "李四"


PAGE = DocumentPage(
    name="a.png", data=b"", kind="scan", strength=0.5, record="r",
    lines=(("姓名：李四", "女"),), fields={"姓名": "李四"},
    questions=(
        PageQuestion(question="姓名？", answer="李四", task="entity"),
        PageQuestion(question="？", answer="女", task="choice", options=("女", "男")),
    ),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_pages(tmp_path, [(PAGE, PIXELS)])
    return tmp_path


def ask(folder, **changed):
    line = json.dumps({**ASKED, **changed}, ensure_ascii=False)
    (folder / "questions.jsonl").write_text(line + "\n", encoding="utf-8")


def test_what_is_written_is_read_again(folder):
    (page,) = read_pages(folder)
    assert (page.kind, page.strength, page.record) == ("scan", 0.5, "r")
    assert page.lines == (("姓名：李四", "女"),)
    assert [each.task for each in page.questions] == ["entity", "choice"]
    assert page.questions[1].options == ("女", "男")
    assert SECRET not in repr(page.data)


def test_a_text_with_other_line_breaks_is_one_line_of_the_file(folder):
    text = "低回声，\u2028边缘\x85光滑。"
    ask(folder, answer=text)
    (page,) = read_pages(folder)
    assert page.questions[0].answer == text


def test_own_pages_need_questions_alone(folder):
    (folder / "pages.jsonl").unlink()
    (page,) = read_pages(folder)
    assert (page.kind, page.lines, page.record) == ("own", (), "a.png")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"task": "poem"}, "questions.jsonl line 1: task: "),
        ({"answer": " "}, "questions.jsonl line 1: answer: "),
        ({"page": "b.png"}, "page 'b.png' of .* cannot be read"),
        ({"page": "../a.png"}, "is not in the folder"),
        ({"options": ["张三", "王五"], "task": "choice"}, "none of the 2 options"),
        ({"task": "choice"}, "two or more different options"),
        ({"colour": "red"}, "questions.jsonl line 1: colour"),
    ],
)
def test_a_line_that_is_none_is_refused_without_its_text(folder, changed, told):
    ask(folder, **changed)
    with pytest.raises(DataError, match=told) as caught:
        read_pages(folder)
    assert SECRET not in str(caught.value)


def test_a_page_that_is_told_of_twice_is_refused(folder):
    line = json.dumps({"page": "a.png", "kind": "scan"})
    (folder / "pages.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pages.jsonl line 2: page 'a.png' has a line already"):
        read_pages(folder)


def test_what_is_no_folder_of_pages_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"no folder .* sonoray documents make"):
        read_pages(tmp_path / "absent")
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"page 'a.png' cannot be read: unknown_format"):
        read_pages(folder)
    (folder / "questions.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no questions.jsonl; write one line of JSON"):
        read_pages(folder)


@pytest.mark.parametrize("name", ["questions.jsonl", "pages.jsonl", "pages/00000-scan-0.5.png"])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match=rf"'{tmp_path}' holds '{name.split('/')[0]}'.* another"):
        write_pages(tmp_path, [(PAGE, PIXELS)])
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_pages_are_made_again_until_somebody_changes_their_questions(folder):
    other = replace(PAGE, questions=PAGE.questions[:1])
    write_pages(folder, [(other, PIXELS)])
    write_pages(folder, [(PAGE, PIXELS)])
    assert len(read_pages(folder)[0].questions) == 2
    ask(folder, answer="王五")
    with pytest.raises(DataError, match=r"holds 'questions.jsonl'"):
        write_pages(folder, [(PAGE, PIXELS)])
    assert read_pages(folder)[0].questions[0].answer == "王五"


def test_unknown_kinds_and_strengths_are_refused():
    with pytest.raises(ValidationError, match="'screenshot', 'scan' or 'photo'"):
        DocumentsConfig.model_validate({"kinds": ["fax"]})
    with pytest.raises(ValidationError, match="must be above 0 and at most 1"):
        DocumentsConfig.model_validate({"strengths": [0.5, 2]})


def test_records_beyond_any_use_are_refused():
    with pytest.raises(ValidationError, match="less than or equal to 10000"):
        DocumentsConfig.model_validate({"records": 99_999_999})
