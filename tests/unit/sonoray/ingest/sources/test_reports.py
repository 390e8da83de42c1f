import json
import shlex

import pytest

from sonoray.errors import DataError
from sonoray.ingest.sources.reports import Reports

ROWS = """study_uid,accession,report,question
1.2,,甲状腺未见异常。,x
,A7,双肾正常。,
1.2,,另一份。,
,,无主。,
1.9,,,
"""


def find(reports, study_uid="", *accessions):
    """The report and what is wrong with it."""
    return reports.find(study_uid=study_uid, accessions=accessions)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return Reports(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_reports_are_found_by_either_identifier(tmp_path, encoding):
    reports = write(tmp_path / "r.csv", ROWS, encoding)
    report, problem = find(reports, "1.2")
    assert not report
    assert problem == "conflicting_reports: 2 different reports; keep one"
    assert list(reports.find_unused()) == [3]
    assert find(reports, "A7") == find(reports, "", "1.2") == ("", "")
    assert find(reports, "1.1", "A6", "A7") == ("双肾正常。", "")
    assert reports.find_unused() == {}
    assert list(reports.refused) == [5, 6]
    assert "no identifier" in reports.refused[5]
    assert "no report" in reports.refused[6]


def test_a_row_with_an_unquoted_comma_is_refused_and_not_cut(tmp_path):
    text = 'study_uid,report\n1.2,Liver normal, no lesion.\n1.3,"a, b"\n1.4\n'
    reports = write(tmp_path / "王小明.csv", text)
    assert find(reports, "1.2") == ("", "")
    assert find(reports, "1.3") == ("a, b", "")
    assert reports.refused == {
        2: "malformed_row: line 2 has 3 fields, its header 2; correct it",
        4: "malformed_row: line 4 has 1 fields, its header 2; correct it",
    }


def test_json_lines_say_the_same(tmp_path):
    lines = '{"study_uid": "1.2", "report": "正常。"}', "", "[1]", "no JSON", '{"accession": 7}'
    reports = write(tmp_path / "r.jsonl", "\n".join(lines))
    assert find(reports, "1.2") == ("正常。", "")
    assert list(reports.refused) == [3, 4, 5]
    assert not any("r.jsonl" in problem for problem in reports.refused.values())


@pytest.mark.parametrize("separator", "\u0085\u2028\u2029")
def test_a_line_of_json_ends_at_a_line_feed_alone(tmp_path, separator):
    row = {"study_uid": "1.2", "accession": None, "report": f"a{separator}b"}
    reports = write(tmp_path / "r.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    assert find(reports, "1.2") == (f"a{separator}b", "")
    assert not reports.refused


def test_an_accession_number_of_several_patients_says_whose_report_it_is_of_none(tmp_path):
    reports = write(tmp_path / "r.csv", "study_uid,accession,report\n,7,a\n1.3,7,b\n,8,c\n")
    for patient, accessions in (("p", "78"), ("q", "7"), ("p", "8")):
        reports.note_patient(patient, accessions)
    assert find(reports, "1.3", "7") == ("b", "")
    assert list(reports.find_unused()) == [2, 4]
    report, problem = find(reports, "1.2", "7", "8")
    assert not report
    assert problem.startswith("ambiguous_accession: several patients use the accession number")
    assert "7" not in problem
    assert find(reports, "1.4", "8") == ("c", "")


def test_a_row_whose_identifiers_name_two_studies_is_refused_and_given_to_neither(tmp_path):
    text = "study_uid,accession,report\n1.1,B,a\n1.2,B,b\n1.3,A,c\n1.4,Z,d\n1.1,Z,e\n1.1,A,f\n"
    reports = write(tmp_path / "r.csv", text)
    for patient, accessions in (("p", "A"), ("q", "B"), ("r", ""), ("s", "")):
        reports.note_patient(patient, accessions)
    assert find(reports, "1.1", "A") == ("f", "")
    assert find(reports, "1.2", "B") == ("b", "")
    assert find(reports, "1.3") == ("", "")
    assert find(reports, "1.4") == ("d", "")  # nobody here has the number, the study has none
    assert list(reports.refused) == [2, 6, 4]
    assert all(
        problem.startswith(f"conflicting_identifiers: line {line} has the study_uid of one study")
        for line, problem in reports.refused.items()
    )
    assert reports.find_unused() == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"", r"is no \.csv, \.tsv or \.jsonl; save it as one of them"),
        (
            "r.csv",
            b"a,b\n1,2\n",
            r"lacks the columns report, study_uid or accession; it has a, b; "
            r"name its columns with --columns report=COLUMN,accession=COLUMN",
        ),
        ("r.csv", b"a,report\n1,x\n", "lacks the columns study_uid or accession; it has a, report"),
        ("r.csv", b"study_uid,report\n", "has no rows; export it again"),
        ("r.csv", b"", "is empty; export it again"),
        ("r.csv", "study_uid,report\n1,甲状腺".encode()[:-1], "UTF-8, but damaged at byte"),
        ("r.csv", b"\xff\xff\xff", r"neither UTF-8 .* nor GB18030"),
        ("r.csv", b'study_uid,report\n1,"x', "unexpected end of data in line 2"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Reports(tmp_path / name)
    with pytest.raises(DataError, match=r"no file .*; check the path"):
        Reports(tmp_path / "absent.csv")


def test_identifiers_that_a_spreadsheet_changed_find_no_study(tmp_path):
    rows = "".join(f"2.02411E+14,report {n}\n" for n in range(2)) + "00123,a\n124.0,b\n"
    reports = write(tmp_path / "r.csv", f"accession,report\n{rows}")
    assert {line: problem.partition(":")[0] for line, problem in reports.refused.items()} == {
        2: "rounded_identifier",
        3: "rounded_identifier",
        5: "reformatted_identifier",
    }
    assert all("column accession" in problem for problem in reports.refused.values())
    assert find(reports, "", "2.02411E+14") == ("", "")
    assert find(reports, "", "00123") == ("a", "")


def test_a_number_that_lost_the_zeros_of_the_headers_is_told_apart_from_one_of_nobody(tmp_path):
    reports = write(tmp_path / "r.csv", "accession,report\n123,a\n777,b\n")
    reports.note_patient("p", ["00123"])
    assert find(reports, "", "00123") == ("", "")
    unused = reports.find_unused()
    assert unused[2].startswith("shortened_identifier: line 2, column accession has a number")
    assert unused[3].startswith("no_images: ")


EXPORT = (
    "检查号,姓名,超声所见,超声提示\n"
    "A1,王小明,甲状腺左叶低回声。,TI-RADS 3类。\n"
    "A2,李四,双肾正常。,\n"
)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_hospitals_columns_are_named_and_joined(tmp_path, suffix):
    path = tmp_path / f"r.{suffix}"
    path.write_bytes(EXPORT.replace(",", {"csv": ",", "tsv": "\t"}[suffix]).encode("gb18030"))
    reports = Reports(path, ["report=超声所见+超声提示,accession=检查号"])
    assert find(reports, "", "A1") == ("甲状腺左叶低回声。\nTI-RADS 3类。", "")
    assert find(reports, "", "A2") == ("双肾正常。", "")
    assert not reports.refused
    assert Reports(path, ["report=超声所见", "accession=检查号"]).find(
        study_uid="", accessions=["A1"]
    ) == ("甲状腺左叶低回声。", "")


@pytest.mark.parametrize(
    ("header", "option"),
    [
        ("检查号,姓名,超声所见,超声提示", "--columns report=超声所见+超声提示,accession=检查号"),
        ("Accession Number,Name,Findings,Impression",
         "--columns 'report=Findings+Impression,accession=Accession Number'"),
        ("OBR-3,PID-5,OBX-5,OBX-3", "--columns report=OBX-5,accession=OBR-3"),
        ("Study Instance UID,x,Report Text,y",
         "--columns 'report=Report Text,study_uid=Study Instance UID'"),
    ],
)  # fmt: skip
def test_foreign_columns_are_proposed_and_the_proposal_works(tmp_path, header, option):
    path = tmp_path / "r.csv"
    path.write_text(f"{header}\nA1,王小明,左叶低回声。,3类。\n", encoding="utf-8")
    with pytest.raises(DataError, match="if its columns mean these, add --columns") as error:
        Reports(path)
    assert str(error.value).endswith(option)
    (columns,) = shlex.split(option)[1:]
    reports = Reports(path, [columns])
    name = "study_uid" if "study_uid=" in columns else "accession"
    given = {"study_uid": "", "accessions": [], name: "A1"} if name == "study_uid" else {
        "study_uid": "", "accessions": ["A1"],
    }  # fmt: skip
    report, problem = reports.find(**given)
    assert problem == ""
    assert report.startswith("左叶低回声。")
