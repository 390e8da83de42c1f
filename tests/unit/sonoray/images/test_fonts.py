"""Fonts that have the characters of a text."""

from sonoray.images.fonts import find_font


def test_a_font_has_every_sign_that_is_asked_for():
    assert find_font(["plain"]) is not None
    assert find_font(["é", "ß"]) is not None
    assert find_font(["\U0010fffd"]) is None  # private use: no font, and no box for everything
