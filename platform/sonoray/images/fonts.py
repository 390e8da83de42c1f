"""A font for texts in pictures: those of a gallery and of the audit's sheets are Chinese."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path


def find_font(texts: Iterable[str]) -> Path | None:
    """Return a font file that has every character beyond ASCII of the texts.

    Returns:
        The first such file by name among those that matplotlib knows, else among those of the
        system: matplotlib keeps its list, which lacks what was installed later. None where there is
        none.
    """
    from matplotlib import font_manager

    wanted = {ord(sign) for text in texts for sign in text if not sign.isascii()}
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    return _first(sorted(known), wanted) or _first(
        sorted(set(font_manager.findSystemFonts()) - known), wanted
    )


def _first(files: Sequence[str], wanted: Collection[int]) -> Path | None:
    """The first file that has every wanted character."""
    from matplotlib import font_manager

    for file in files:
        if "LastResort" in Path(file).name:  # has a box for every character there is
            continue
        try:
            font = font_manager.get_font(file)
        except (OSError, RuntimeError):  # of the system's, not all can be read
            continue
        if all(font.get_char_index(sign) for sign in wanted):
            return Path(file)
    return None
