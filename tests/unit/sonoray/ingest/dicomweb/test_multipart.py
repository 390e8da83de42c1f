import pytest

from sonoray.ingest.dicomweb.multipart import CutOffError, NoObjectError, copy_object

KIND = 'multipart/related; type="application/dicom"; boundary="b-1"'
OBJECT = bytes(range(256)) * 20 + b"\r\n--b-0\r\n--b"
HEAD = b"--b-1\r\nContent-Type: application/dicom\r\n\r\n"
WHOLE = HEAD + OBJECT + b"\r\n--b-1--\r\n"


def copy(body, size, kind=KIND, *, is_announced=True):
    """Copy a body that comes in pieces of `size` bytes; the object."""
    found = bytearray()
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    copy_object(kind, pieces, found.extend, is_announced=is_announced)
    return bytes(found)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10**6])
def test_the_object_comes_out_as_it_went_in(size):
    assert copy(WHOLE, size) == OBJECT
    assert copy(b"a preamble\r\n" + WHOLE + b"an epilogue", size) == OBJECT
    assert copy(HEAD + b"\r\n--b-1--", size) == b""
    assert copy(b"--b-1\r\n\r\n" + OBJECT + b"\r\n--b-1--", size) == OBJECT
    assert copy(OBJECT, size, "application/dicom") == OBJECT
    assert copy(WHOLE, size, KIND.replace('"b-1"', "b-1").upper().replace("B-1", "b-1")) == OBJECT


@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_a_body_that_was_cut_off_is_never_an_object(size):
    for end in (0, 3, 20, len(HEAD), len(HEAD) + 100, len(WHOLE) - 4, len(WHOLE) - 3):
        with pytest.raises(CutOffError):
            copy(WHOLE[:end], size)
    assert copy(WHOLE[:-2], size) == OBJECT


def test_a_bare_body_has_to_say_how_long_it_is():
    with pytest.raises(CutOffError):
        copy(OBJECT, 100, "application/dicom", is_announced=False)
    assert copy(WHOLE, 100, is_announced=False) == OBJECT


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("text/html", b"<html>", "another content type"),
        ("multipart/related", WHOLE, "another content type"),
        ("", WHOLE, "without a content type"),
        (KIND, b"--b-1--\r\n", "without an object"),
        (KIND, WHOLE[:-4] + b"\r\n\r\nmore\r\n--b-1--", "several parts"),
        (KIND, bytes(200_000), "without its own delimiter"),
    ],
)
def test_what_is_not_one_object_is_named(kind, body, message):
    with pytest.raises(NoObjectError, match=message):
        copy(body, 1000, kind)
