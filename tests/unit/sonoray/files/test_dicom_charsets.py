import io

import pytest
from pydantic import ValidationError
from pydicom import dcmread

from sonoray.files.dicom_charsets import all_readings, best_reading, describe_charsets, to_charsets
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.dicom_archive import DicomSource
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace

NAMES = {
    "gb18030": "李^晓明",
    "gbk": "欧阳^静怡",
    "big5": "陳^家豪",
    "euc_kr": "김^민수",
    "shift_jis": "山田^太郎",
    "utf-8": "李^晓明",
    "latin-1": "Müller^Jörg",
}
DECLARED = ("", "ISO_IR 6", "ISO_IR 100", "ISO_IR 192", "GB18030", "GBK", "ISO_IR 144")
DELIMITERS = {0x5C, 0x5E, 0x3D}


def read(value, declared, undeclared="GB18030"):
    return best_reading(value, to_charsets(declared, undeclared), DELIMITERS)


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("encoding", NAMES)
def test_a_name_is_among_the_readings_whatever_its_header_declares(encoding, declared):
    name = NAMES[encoding]
    readings = all_readings(name.encode(encoding), to_charsets(declared, "GB18030"), DELIMITERS)
    assert name in readings
    assert len(readings) == len(set(readings))


@pytest.mark.parametrize(
    ("encoding", "declared", "text"),
    [
        ("gb18030", "ISO_IR 192", "李^晓明"),
        ("gb18030", "ISO_IR 100", "李^晓明"),
        ("gb18030", "ISO_IR 6", "李^晓明"),
        ("utf-8", "ISO_IR 100", "李^晓明"),
        ("utf-8", "GB18030", "李^晓明"),
        ("utf-8", "GBK", "李^晓明"),
        ("utf-8", "ISO_IR 100", "Müller^Jörg"),
    ],
)
def test_a_declared_set_that_cannot_be_right_does_not_count_and_is_named(encoding, declared, text):
    reading = read(text.encode(encoding), declared)
    assert (reading.text, reading.is_declared) == (text, False)
    problem = describe_charsets([reading], to_charsets(declared, "GB18030"))
    shown = {"gb18030": "GB18030", "utf-8": "UTF-8"}[encoding]
    assert problem == (
        f"impossible_charset: texts cannot be in the declared {declared}; read as {shown}"
    )


@pytest.mark.parametrize(
    ("encoding", "declared", "text"),
    [
        ("gb18030", "GB18030", "李^晓明"),
        ("gb18030", "GB18030", "模^磨"),  # its bytes are UTF-8 as well
        ("utf-8", "ISO_IR 192", "李^晓明"),
        ("latin-1", "ISO_IR 100", "Müller^Jörg"),
        ("latin-1", "ISO_IR 100", "Größe^Zoë"),
        ("latin-1", "ISO_IR 100", "Åse^Ø"),
        ("iso8859-5", "ISO_IR 144", "Иван^Петров"),
        ("iso8859-7", "ISO_IR 126", "Διονυσιος"),
        ("shift_jis", "ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("ascii", "ISO_IR 192", "Li^Hua"),
    ],
)
def test_a_declared_set_that_can_be_right_counts(encoding, declared, text):
    reading = read(text.encode(encoding), declared)
    assert (reading.text, reading.is_declared) == (text, True)
    assert describe_charsets([reading], to_charsets(declared, "GB18030")) == ""


def test_escapes_are_read_whether_they_are_declared_or_not():
    escaped = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    assert read(escaped, ["", "ISO 2022 IR 87"]).text == "Yamada^Tarou=山田^太郎"
    readings = all_readings(escaped, to_charsets(None, "GB18030"), DELIMITERS)
    assert "Yamada^Tarou=山田^太郎" in readings


@pytest.mark.parametrize("mistaken", ["latin-1", "gb18030"])
def test_what_was_converted_once_too_often_is_read_back(mistaken):
    source = "utf-8" if mistaken == "gb18030" else "gb18030"
    value = "李^晓明".encode(source).decode(mistaken).encode("utf-8")
    assert "李^晓明" in all_readings(value, to_charsets("ISO_IR 192", "GB18030"), DELIMITERS)


def test_a_field_that_was_cut_in_a_character_keeps_what_stands_before_it():
    value = "市立第一人民医院超声科".encode()[:-1]
    readings = all_readings(value, to_charsets("ISO_IR 100", "GB18030"), {0x5C})
    assert "市立第一人民医院超声" in readings


@pytest.mark.parametrize("term", ["ISO-IR 192", "ISO IR 192", "ISO_IR_192"])
def test_a_misspelt_term_counts(term):
    assert read("李^晓明".encode(), term).is_declared


def test_what_nobody_may_see_is_not_told_of_what_is_declared(recwarn, caplog):
    charsets = to_charsets("Wang^Xiao", "GB18030")
    problem = describe_charsets([best_reading("李明".encode(), charsets, {0x5C})], charsets)
    assert problem.startswith("impossible_charset: texts cannot be in the declared unknown set;")
    assert not recwarn.list
    assert not caplog.text


def test_identifiers_that_no_set_has_stay_apart():
    charsets = to_charsets("ISO_IR 192", "GB18030")
    texts = [best_reading(value, charsets, {0x5C}) for value in (b"P\xff\xfe1", b"P\xff\xfd1")]
    assert [each.text for each in texts] == ["P\\xff\\xfe1", "P\\xff\\xfd1"]
    problem = describe_charsets(texts, charsets)
    assert problem.endswith("cannot be in the declared ISO_IR 192; read as none that fits")


def with_bytes(data, declared, **values):
    """Write the bytes of attributes as they are, as scanners do."""
    dataset = dcmread(io.BytesIO(data))
    dataset.SpecificCharacterSet = declared
    for number, (keyword, value) in enumerate(values.items()):
        setattr(dataset, keyword, f"{number}".ljust(max(len(value) + len(value) % 2, 16), "#"))
    file = io.BytesIO()
    dataset.save_as(file)
    data = file.getvalue()
    for number, value in enumerate(values.values()):
        length = max(len(value) + len(value) % 2, 16)
        data = data.replace(f"{number}".ljust(length, "#").encode(), value.ljust(length))
    return data


@pytest.fixture
def archive(tmp_path, make_object, make_picture):
    """Write one object whose texts are in GBK, and a report that names everybody in it."""

    def write(declared, encoding="gbk"):
        folder = tmp_path / "archive"
        folder.mkdir(exist_ok=True)
        data = with_bytes(
            make_object(make_picture()[None], AccessionNumber="A1"),
            declared,
            PatientName="李^晓明".encode(encoding),
            ReferringPhysicianName="王^建国".encode(encoding),
            InstitutionName="青山疗养中心".encode(encoding),
            StudyDescription="甲状腺彩超检查".encode(encoding),
        )
        (folder / "a.dcm").write_bytes(data)
        (tmp_path / "r.csv").write_text(
            "accession,report\nA1,李晓明由王建国在青山疗养中心检查。甲状腺未见异常。\n",
            encoding="utf-8",
        )
        return folder

    return write


@pytest.mark.parametrize("declared", ["ISO_IR 192", "ISO_IR 100", "GB18030"])
def test_names_leave_the_report_whatever_the_header_declares(archive, tmp_path, declared):
    source = DicomSource(archive(declared), reports=tmp_path / "r.csv")
    output = ingest(source, Workspace.open(tmp_path / "ws"), IngestConfig())
    (study,) = iter_studies(output.path)
    assert study.turns[0].answer == "[姓名]由[姓名]在[机构]检查。甲状腺未见异常。"
    assert study.labels["site"] == "甲状腺"
    problem = f"texts cannot be in the declared {declared}; read as GB18030"
    is_wrong = declared != "GB18030"
    assert (f"{problem} (1)" in study.provenance) is is_wrong
    remarks = {f"impossible_charset: {problem}": 1} if is_wrong else {}
    assert output.manifest["summary"]["remarks"] == remarks


def test_a_given_set_counts_in_place_of_the_declared_one(archive, tmp_path):
    folder = archive("ISO_IR 192")
    config = DicomConfig(declared_charset="gbk")
    (study,) = DicomSource(folder, config, reports=tmp_path / "r.csv").iter_studies()
    assert study.identifiers.names[0] == "李^晓明"
    assert not study.remarks
    wrong = DicomConfig(declared_charset="utf-8")
    (study,) = DicomSource(folder, wrong, reports=tmp_path / "r.csv").iter_studies()
    assert "李^晓明" in study.identifiers.names
    assert study.remarks == {
        "impossible_charset: texts cannot be in the declared utf-8; read as GB18030": 1
    }


@pytest.mark.parametrize("field", ["charset", "declared_charset"])
def test_a_name_that_is_no_character_set_is_refused(field):
    with pytest.raises(ValidationError, match=r"'gb-18030-x' is no character set of Python"):
        DicomConfig(**{field: "gb-18030-x"})
