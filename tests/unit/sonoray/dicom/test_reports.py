import pytest

from sonoray.dicom.reports import Reports
from sonoray.errors import DataError

ROWS = """study_uid,accession,report,question
1.2,,甲状腺未见异常。,x
,A7,双肾正常。,
1.2,,另一份。,
,,无主。,
1.9,,,
"""


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return Reports(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_reports_are_found_by_either_identifier(tmp_path, encoding):
    reports = write(tmp_path / "r.csv", ROWS, encoding)
    assert reports.find(study_uid="1.2", accession="") == ("甲状腺未见异常。", "另一份。")
    assert reports.unused_lines() == [3]
    assert reports.find(study_uid="1.5", accession="A7") == ("双肾正常。",)
    assert reports.unused_lines() == []
    assert reports.find(study_uid="", accession="") == ()
    assert list(reports.malformed) == [5, 6]
    assert "no identifier" in reports.malformed[5]
    assert "no report" in reports.malformed[6]


def test_json_lines_say_the_same(tmp_path):
    lines = '{"study_uid": "1.2", "report": "正常。"}', "", "[1]", "no JSON", '{"accession": 7}'
    reports = write(tmp_path / "r.jsonl", "\n".join(lines))
    assert reports.find(study_uid="1.2", accession="") == ("正常。",)
    assert list(reports.malformed) == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"", "is none of .csv, .jsonl"),
        ("r.csv", b"a,b\n", "has the columns a, b; it needs report, and study_uid or accession"),
        ("r.csv", b"", "is empty; export it again"),
        ("r.csv", "study_uid,report\n1,甲状腺".encode()[:-1], "UTF-8, but damaged at byte"),
        ("r.csv", b"\xff\xff\xff", r"neither UTF-8 .* nor GB18030"),
        ("r.csv", b'study_uid,report\n1,"x', "line 2: unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Reports(tmp_path / name)
    with pytest.raises(DataError, match=r"no file .*; check the path"):
        Reports(tmp_path / "absent.csv")
