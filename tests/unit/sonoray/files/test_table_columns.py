import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.files.table_columns import LABEL, map_columns, propose, read_columns, renamed

KNOWN = ("report", "accession", LABEL)


def test_columns_are_read_with_their_own_commas_and_signs():
    found = read_columns(["report=所见 + 提示,accession=号(门诊,住院)", "label:site=部位"], KNOWN)
    assert found == {"report": "所见 + 提示", "accession": "号(门诊,住院)", "label:site": "部位"}
    header = ["所见", "提示", "号(门诊,住院)", "部位"]
    assert map_columns(found, header, "table") == {
        "report": ("所见", "提示"), "accession": ("号(门诊,住院)",), "label:site": ("部位",),
    }  # fmt: skip
    assert map_columns({"report": "a+b"}, ["a+b", "a", "b"], "table") == {"report": ("a+b",)}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["report"], "'report' is no list of NAME=COLUMN; write it like report="),
        (["report="], "is no list of NAME=COLUMN"),
        (["=a"], "is no list of NAME=COLUMN"),
        (["reprot=a"], r"names 'reprot' \(did you mean 'report'\?\), which is none of report"),
        (["report=a,report=b"], "names 'report' twice; join columns with \\+"),
        (["report=a", "report=b"], "names 'report' twice"),
    ],
)
def test_a_malformed_option_is_one_clear_error(texts, message):
    with pytest.raises(ConfigError, match=message):
        read_columns(texts, KNOWN)


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DataError, match="t has no column 'c', which --columns names for 'report'; "
                                        "it has a, b"):  # fmt: skip
        map_columns({"report": "a+c"}, ["a", "b"], "t")


def test_rows_get_our_names_and_joined_texts():
    columns = {"report": ("a", "b", "c"), "images": ("x", "y"), "accession": ("n",)}
    row = {"a": " A ", "b": "", "c": 3, "x": "1.png", "y": "2.png", "n": 7, "other": "o"}
    assert renamed(row, columns) == {
        **row, "report": "A\n3", "images": "1.png;2.png", "accession": 7,
    }  # fmt: skip
    assert renamed({"n": None}, {"accession": ("n",), "report": ("a", "b")}) == {
        "n": None, "accession": None, "report": "",
    }  # fmt: skip


def test_the_escapes_of_hl7_become_what_they_stand_for_in_its_texts_alone():
    text = r"Liver\.br\3 \T\ 4 mm\F\\S\\R\\E\ C:\T\x"
    row = {"OBX-5": text, "note": text}
    read = renamed(row, {"report": ("OBX-5",), "other": ("note",)})
    assert read["report"] == "Liver\n3 & 4 mm|^~\\ C:&x"
    assert read["other"] == text


@pytest.mark.parametrize(
    ("header", "wanted", "option"),
    [
        ("检查号 超声所见 超声提示", "report accession",
         "--columns report=超声所见+超声提示,accession=检查号"),
        ("报告内容 结论 超声号", "report accession", "--columns report=报告内容,accession=超声号"),
        ("诊断意见 年龄", "report accession", "--columns report=诊断意见"),
        ("ＡＣＣ_NO full-report", "accession report",
         "--columns accession=ＡＣＣ_NO,report=full-report"),
        ("OBX.5.1 OBX-55 OBR-3_Filler", "report accession",
         "--columns report=OBX.5.1,accession=OBR-3_Filler"),
        ("检查号 病历号 检查部位", "study patient image label:site",
         "--columns study=检查号,patient=病历号,label:site=检查部位"),
        ("姓名 年龄", "report accession", ""),
    ],
)  # fmt: skip
def test_names_that_mean_a_column_are_proposed(header, wanted, option):
    assert propose(header.split(), wanted.split()) == option


def test_a_proposal_with_blanks_is_quoted_for_the_shell():
    assert propose(["Accession Number"], ["accession"]) == "--columns 'accession=Accession Number'"
