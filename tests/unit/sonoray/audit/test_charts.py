"""The overview where the machine's only Chinese font has no bold weight, as many have none."""

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from sonoray.audit import charts, pictures
from sonoray.study.contract import SPLITS

VALUES = {
    "dataset": "甲状腺",
    "splits": {split: {"patients": 1, "studies": 2, "images": 3} for split in SPLITS},
    "images_per_study": {"1": dict.fromkeys(SPLITS, 2)},
    "sizes": [[64, 48, 6]],
    "labels": [],
    "topics": [],
    "accounting": {
        name: {"seen": 9, "kept": 6, "duplicate": 1, "quarantined": 2}
        for name in ("studies", "images")
    },
}


@pytest.fixture
def regular_font(tmp_path, monkeypatch):
    """A font of one weight with an empty glyph for every sign of the sample and the values."""
    from matplotlib.font_manager import fontManager

    signs = set(pictures._SAMPLE_OF_CHINESE) | set("腺状甲") | {chr(n) for n in range(32, 127)}
    names = {ord(sign): f"u{ord(sign):04X}" for sign in signs}
    builder = FontBuilder(1000, isTTF=True)
    order = [".notdef", *names.values()]
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: TTGlyphPen(None).glyph() for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (500, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Plain Test", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    path = tmp_path / "plain.ttf"
    builder.save(path)
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    monkeypatch.setattr(charts, "text_font", lambda: path)
    return path


def test_a_font_without_bold_is_drawn_without_a_warning(regular_font, tmp_path, caplog):
    charts.draw_overview(VALUES, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 10_000
    assert "findfont" not in caplog.text


def test_titles_are_bold_where_the_font_is():
    assert charts._title_weight(["DejaVu Sans"]) == "bold"
