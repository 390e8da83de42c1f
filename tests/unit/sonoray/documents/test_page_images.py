"""Pages as images: drawn, captured, and read back by OCR."""

import logging

import numpy as np
import pytest

from sonoray.documents import page_drawing
from sonoray.documents.page_capture import capture
from sonoray.documents.page_drawing import draw_page, fits, wrap
from sonoray.documents.page_layout import lines_of
from sonoray.documents.page_reader import PageReader
from sonoray.documents.page_records import iter_records
from sonoray.documents.report_page import ReportPage
from sonoray.errors import DataError
from sonoray.images.fonts import find_font
from sonoray.phantom import PhantomConfig


def text_page(text: str) -> ReportPage:
    return ReportPage(
        record="r", title="超声报告", header=(("姓名", "李四"),), measurements=(),
        sections=(("超声所见", text),), footer="完",
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    if find_font(["超声检查报告单↑↓"]) is None:
        pytest.skip("no font with Chinese: apt-get install fonts-noto-cjk")
    return draw_page(next(iter_records(PhantomConfig(), 1, 0))[0])


def test_captures_are_the_same_for_a_seed_and_worse_with_strength(drawn):
    for kind, shape in (("screenshot", (1120, 840, 3)), ("scan", (1120, 840))):
        once, again = (capture(drawn.pixels, kind, 0.5, np.random.default_rng(7)) for _ in range(2))
        assert once.shape == shape
        assert np.array_equal(once, again)
    photos = [capture(drawn.pixels, "photo", s, np.random.default_rng(7)) for s in (0.2, 1)]
    assert photos[0].ndim == 3
    # shadow: paper of one page is no longer of one grey
    assert photos[1].std() > photos[0].std()


def test_a_page_is_read_back(drawn, caplog):
    top = slice(0, 260)
    with caplog.at_level(logging.INFO):
        read = lines_of(PageReader().read(drawn.pixels[top]))
    assert read == list(drawn.lines[: len(read)])
    assert len(read) >= 4
    assert not caplog.records
    assert lines_of(PageReader().read(np.full((64, 64), 255, np.uint8))) == []


def test_a_page_upside_down_is_read_in_order(drawn):
    top = drawn.pixels[:260]
    reader = PageReader(upside_down=True)
    read = lines_of(reader.read(top[::-1, ::-1]))
    assert read == list(drawn.lines[: len(read)])
    assert len(read) >= 4
    assert lines_of(reader.read(top)) == read


def test_what_cannot_be_drawn_is_refused(drawn, monkeypatch):
    with pytest.raises(DataError, match="does not fit a page"):
        draw_page(text_page("低回声。" * 300))
    monkeypatch.setattr(page_drawing, "_fonts", {})
    monkeypatch.setattr(page_drawing, "find_font", lambda texts: None)
    with pytest.raises(DataError, match=r"no font .* apt-get install fonts-noto-cjk"):
        draw_page(text_page("低回声。"))


def test_half_width_signs_take_less_room():
    assert wrap("低回声病灶", 3) == ["低回声", "病灶"]
    assert wrap("ab\n低", 3) == ["ab", "低"]


def test_other_line_breaks_and_signs_without_shape_are_drawn_too(drawn):
    text = "低回声。\r\n \n边缘\t光滑。\u2028未见\x07钙化。\x85"
    assert wrap(text) == ["低回声。", "边缘 光滑。", "未见 钙化。"]
    assert draw_page(text_page(text)).lines[3:-1] == tuple((line,) for line in wrap(text))


def test_a_page_holds_what_its_lines_take(drawn):
    """Of a title, a header of one line, a heading and a footer: 23 lines of text are left."""
    full = text_page("低回声。\n" * 23)
    assert fits(full)
    page = draw_page(full)
    assert len(page.lines) == 27
    assert (page.pixels[-30:] == 255).all()
    assert not fits(text_page("低回声。\n" * 24))
    assert fits(text_page("低回声。" * 200))  # 800 characters in 23 lines
