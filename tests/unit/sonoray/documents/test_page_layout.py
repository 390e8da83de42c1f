"""Lines and cells from pieces of text, on pages that are turned or in perspective."""

import numpy as np
import pytest

from sonoray.documents.page_layout import lines_of, text_of
from sonoray.documents.page_reader import TextBox

LINES = (
    ("超声检查报告单",),
    ("姓名：李四", "性别：女"),
    ("项目", "测值", "单位"),
    *((f"左叶前后径{row}", f"1{row}.5", "mm") for row in range(8)),
    ("甲状腺左叶见低回声病灶，大小约十二毫米，边缘光滑，未见钙化。",),
)
AT = (60, 420, 600)


def boxes(warp):
    found = []
    for row, line in enumerate(LINES):
        for left, text in zip(AT, line, strict=False):
            top, right = 60 + 36 * row, left + 20 * len(text)
            corners = np.array([[left, top], [right, top], [right, top + 20], [left, top + 20]])
            found.append(TextBox(corners=warp(corners.astype(float)), text=text, score=1.0))
    order = np.random.default_rng(0).permutation(len(found))  # the detector's order says nothing
    return [found[at] for at in order.tolist()]


def turned(degrees):
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return lambda corners: (corners - 400) @ matrix.T + 400


def tilted(corners):
    """Seen from the side: lines fall on the left and rise on the right, less so below."""
    scale = 1 + (corners[:, :1] - 400) / 4000 + corners[:, 1:] / 3000
    return corners / scale


@pytest.mark.parametrize("warp", [lambda same: same, turned(4), turned(-4), tilted])
def test_rows_of_a_table_are_kept_together(warp):
    assert tuple(lines_of(boxes(warp))) == LINES


def test_pieces_close_together_are_one_cell():
    pieces = [
        TextBox(corners=np.array([[x, 0], [x + 40, 0], [x + 40, 20], [x, 20.0]]), text=t, score=1.0)
        for x, t in ((45, "病灶"), (0, "低回声"), (200, "12"))
    ]
    assert lines_of(pieces) == [("低回声病灶", "12")]
    assert text_of(lines_of(pieces)) == "低回声病灶 12"
    assert lines_of([]) == []
