import pytest

from sonoray.privacy.header_words import find_header_words
from sonoray.study.identifiers import Identifiers

KNOWN = Identifiers(
    names=("Bantel^Qxvor", "Qian^San=钱^三丰", "Li^A"),
    numbers=("PX-0042", "77"),
    places=("Nordklinik",),
)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("BANTEL", True),
        ("Name: bantel, q", True),
        ("BANTE1 Q", True),  # one character of six misread
        ("BAMTE1", False),  # two
        ("钱 三丰", True),
        ("三丰", True),
        ("三", False),
        ("PX0042", True),
        ("PXO042 12.3.", True),
        ("77", False),
        ("LI", False),
        ("N0rdklinlk", True),  # two of ten
        ("GAIN 52 DR 60", False),
        ("", False),
    ],
)
def test_words_are_found_as_a_recogniser_reads_them(text, is_found):
    assert find_header_words(text, KNOWN) is is_found


def test_nobody_is_found_nowhere():
    assert not find_header_words("BANTEL", Identifiers())
