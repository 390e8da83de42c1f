"""A font for texts in pictures: those of a gallery and of the audit's sheets are Chinese."""

from collections.abc import Iterable
from pathlib import Path


def find_font(texts: Iterable[str]) -> Path | None:
    """Return a font file that has every character beyond ASCII of the texts.

    Returns:
        The first such file by name among those that matplotlib knows; None where there is none.
    """
    from matplotlib import font_manager

    wanted = {ord(sign) for text in texts for sign in text if not sign.isascii()}
    for file in sorted({entry.fname for entry in font_manager.fontManager.ttflist}):
        if "LastResort" in Path(file).name:  # has a box for every character there is
            continue
        font = font_manager.get_font(file)
        if all(font.get_char_index(sign) for sign in wanted):
            return Path(file)
    return None
