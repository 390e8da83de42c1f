"""What of a page stands in front of a question."""

from sonoray_jobs.evaluation.documents.page_asking import blocks_of, ranked

LINES = [
    ("姓名：李四", "性别：女"),
    ("左叶前后径", "21.5", "mm"),
    ("超声所见：",),
    ("甲状腺左叶见低回声病灶，",),
    ("边缘光滑。",),
    ("声明：完。",),
]


def test_a_heading_stands_with_its_text():
    assert blocks_of(LINES) == [
        "姓名：李四 性别：女",
        "左叶前后径 21.5 mm",
        "超声所见：甲状腺左叶见低回声病灶，边缘光滑。",
        "声明：完。",
    ]


def test_the_lines_most_like_the_question_come_first():
    blocks = blocks_of(LINES)
    assert ranked(blocks, "左叶前后径的测值是多少？")[0] == 1
    assert ranked(blocks, "低回声病灶的边缘如何？")[0] == 2
    assert ranked(blocks, "？") == [0, 1, 2, 3]
