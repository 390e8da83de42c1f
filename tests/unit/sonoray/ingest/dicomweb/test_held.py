"""Objects in memory: whole or not at all, each and all of them under a cap."""

from collections.abc import Callable

import pytest

from sonoray.errors import DataError
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.dicomweb.held import HeldObjects


def pieces(*data: bytes) -> Callable[[Callable[[bytes], None]], None]:
    return lambda write: [write(each) for each in data] and None


def test_an_object_is_there_whole_or_not_at_all():
    held = HeldObjects(max_object_bytes=8, max_bytes=12)
    held.add("1.2", pieces(b"ab", b"cd"))
    assert (held.has("1.2"), held.get("1.2"), held.head("1.2", 3)) == (True, b"abcd", b"abc")

    def cut_off(write: Callable[[bytes], None]) -> None:
        write(b"abcdefg")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        held.add("1.3", cut_off)
    assert not held.has("1.3")
    held.add("1.4", pieces(b"12345678"))  # the room of what was cut off is there again
    assert not held.is_full


def test_one_object_and_all_of_them_have_a_cap():
    held = HeldObjects(max_object_bytes=8, max_bytes=12)
    with pytest.raises(RejectedImageError, match="too_many_bytes"):
        held.add("1.2", pieces(b"12345678", b"9"))
    assert not held.is_full
    held.add("1.2", pieces(b"12345678"))
    with pytest.raises(DataError, match="more than 12 bytes"):
        held.add("1.3", pieces(b"1234", b"5"))
    assert held.is_full
    assert not held.has("1.3")


def test_an_object_that_comes_again_takes_its_room_once():
    held = HeldObjects(max_object_bytes=8, max_bytes=17)
    for data in (b"12345678", b"abcdefgh"):
        held.add("1.2", pieces(data))
    assert held.get("1.2") == b"abcdefgh"
    held.add("1.3", pieces(b"12345678"))
