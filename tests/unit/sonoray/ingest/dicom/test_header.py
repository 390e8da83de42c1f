import io

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import UltrasoundMultiFrameImageStorage

from sonoray.ingest.dicom.closed_labels import find_site, read_age, read_labels
from sonoray.ingest.dicom.header import KEYWORDS, read_header, read_text

TEXTS = {
    "GB18030": ("GB18030", "甲状腺彩超检查"),
    "GBK": ("GBK", "甲状腺"),
    "ISO_IR 192": ("utf-8", "乳腺超声"),
    "ISO_IR 100": ("latin-1", "Schilddrüse"),
    "undeclared GB18030": ("GB18030", "肾脏"),
    "undeclared UTF-8": ("utf-8", "肾脏"),
}


def with_texts(data, charset, description, body_part):
    """Write the bytes of both texts as they are, as scanners do."""
    dataset = dcmread(io.BytesIO(data))
    if charset:
        dataset.SpecificCharacterSet = charset
    dataset.StudyDescription = "DESCRIPTION-------"
    dataset.BodyPartExamined = "BODYPART----------"
    file = io.BytesIO()
    dataset.save_as(file)
    data = file.getvalue()
    for placeholder, text in (
        (b"DESCRIPTION-------", description),
        (b"BODYPART----------", body_part),
    ):
        data = data.replace(placeholder, text.ljust(len(placeholder)))
    return read_header(io.BytesIO(data))


@pytest.mark.parametrize("declared", TEXTS)
def test_texts_come_out_right_in_every_character_set(make_object, make_picture, declared):
    encoding, text = TEXTS[declared]
    encoded = text.encode(encoding)
    charset = "" if declared.startswith("undeclared") else declared
    header = with_texts(make_object(make_picture()[None]), charset, encoded, encoded)
    for keyword in ("StudyDescription", "BodyPartExamined"):
        assert read_text(header.dataset, keyword, "GB18030") == text


def test_nothing_but_listed_attributes_is_read(make_object, make_picture):
    data = make_object(
        make_picture()[None], PatientBirthDate="19610203", OperatorsName="Li^Hua", StudyID="77"
    )
    header = read_header(io.BytesIO(data))
    assert {element.keyword for element in header.dataset} <= set(KEYWORDS)
    assert "PatientName" not in header.dataset


def test_labels_are_in_closed_forms(make_object, make_picture):
    data = make_object(
        make_picture()[None],
        Manufacturer="Mindray",
        ManufacturerModelName="Wang^Xiao",
        PatientSex="female",
        PatientAge="093Y",
    )
    header = with_texts(data, "GB18030", "甲状腺 王小明".encode("gb18030"), b"THYROID")
    assert read_labels(header, "GB18030") == {
        "modality": "US",
        "body_part": "THYROID",
        "site": "甲状腺",
        "manufacturer": "Mindray",
        "age": "90",
    }
    unknown = with_texts(data, "GB18030", "王小明".encode("gb18030"), b"WANG")
    labels = read_labels(unknown, "GB18030")
    assert "body_part" not in labels
    assert "site" not in labels


@pytest.mark.parametrize(
    ("description", "site"),
    [
        ("甲状腺彩超检查", "甲状腺"),
        ("双肾、膀胱", ""),
        ("Echocardiogram", "心脏"),
        ("Upper Extremity", "上肢"),
        ("US BREAST LEFT", "乳腺"),
        ("", ""),
        ("王小明", ""),
    ],
)
def test_the_site_is_the_one_that_a_text_names(description, site):
    assert find_site(description) == site


@pytest.mark.parametrize(
    ("text", "age"),
    [("045Y", "45"), ("018M", "1"), ("010D", "0"), ("099Y", "90"), ("45", ""), ("", "")],
)
def test_ages_are_whole_years(text, age):
    assert read_age(text) == age


def test_pixels_are_where_the_header_says(make_object, make_picture):
    stored = make_picture()[None]
    data = make_object(stored)
    header = read_header(io.BytesIO(data))
    assert header.sop_class == UltrasoundMultiFrameImageStorage
    found = np.frombuffer(data, np.uint8, header.pixel_length, header.pixel_offset)
    np.testing.assert_array_equal(found, stored.ravel())
