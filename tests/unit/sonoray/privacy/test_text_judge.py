import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sonoray.privacy.text_judge import judge
from sonoray.privacy.text_lines import Box, Line


def picture(text, width=700, place=(100, 40), size=20):
    image = Image.new("L", (width, 100), 30)
    ImageDraw.Draw(image).text(place, text, font=ImageFont.load_default(size), fill=220)
    return np.asarray(image)


def candidate(box, score=5.0):
    return Line(score=score, box=box, height=box.lower - box.upper)


def ink(shown):
    y, x = np.nonzero(shown > 125)
    return Box(upper=y.min(), left=x.min(), lower=y.max() + 1, right=x.max() + 1)


@pytest.mark.parametrize("part", [slice(0, 4), slice(14, 18), slice(32, None)])
def test_text_is_followed_to_both_ends(part):
    text = "QXVOR 48210377 BANTEL NORDKLINIK ZWO 93"
    shown = picture(text)
    font, whole = ImageFont.load_default(20), ink(shown)
    begin, end = (100 + font.getlength(text[:place]) for place in (part.start, part.stop or 99))
    line = Box(upper=whole.upper, left=int(begin), lower=whole.lower, right=int(end))
    found = judge(shown, candidate(line))
    assert found.box.left <= whole.left + 2
    assert found.box.right >= whole.right - 2
    assert found.box.left > whole.left - 25
    assert found.box.right < whole.right + 25
    assert "KLINIK" in found.words
    assert "KLINIK" not in repr(found)


@pytest.mark.parametrize(
    ("text", "score", "is_text"),
    [
        ("", 8.0, False),
        ("|||||||", 8.0, False),
        ("-------", 8.0, False),
        ("0000", 8.0, False),
        ("+", 8.0, False),
        ("40", 2.0, False),
        ("40", 3.0, True),
        ("407", 0.0, True),
    ],
)
def test_what_reads_as_nothing_or_one_letter_is_no_text(text, score, is_text):
    shown = picture(text)
    box = ink(shown) if text else Box(upper=40, left=100, lower=60, right=200)
    assert (judge(shown, candidate(box, score)) is not None) is is_text


def test_text_that_fills_the_picture_ends_with_it():
    shown = picture("QXVOR 48210377 BANTEL ZWO", width=262, place=(0, 40))
    whole = ink(shown)
    found = judge(shown, candidate(Box(upper=whole.upper, left=60, lower=whole.lower, right=140)))
    assert (found.box.left, found.box.right) == (0, 262)
