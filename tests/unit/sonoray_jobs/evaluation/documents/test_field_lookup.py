"""Lookup on a page: labels, tables, headings, arithmetic, options, a misread label."""

import pytest

from sonoray.documents.report_page import PageQuestion
from sonoray_jobs.evaluation.documents.field_lookup import look_up, read_layout

LINES = [
    ("超声检查报告单",),
    ("姓名：", "李四", "性别：女"),
    ("检查部位：甲状腺", "检查日期：2024-01-02"),
    ("项目", "测值", "单位", "参考范围", "提示"),
    ("左叶前后径", "21.5", "mm", "10.0-20.0", "↑"),
    ("内静脉内径", "9.0", "mm", "8.0-13.0"),  # 门 was read as 内
    ("病灶长径", "12.3", "mm"),
    ("超声所见：",),
    ("甲状腺左叶见低回声病灶，大小约",),
    ("12毫米，边缘光滑。",),
    ("超声提示：",),
    ("甲状腺左叶良性结节。",),
    ("声明：本页由程序生成。",),
]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("姓名是什么？", "李四"),
        ("检查日期是什么？", "2024-01-02"),
        ("左叶前后径的测值是多少？", "21.5"),
        ("左叶前后径的参考范围是多少？", "10.0-20.0"),
        ("左叶前后径的单位是什么？", "mm"),
        ("门静脉内径的测值是多少？", "9.0"),
        ("病灶长径的参考范围是多少？", ""),
        ("左叶前后径与病灶长径相差多少毫米？", "9.2"),
        ("左叶前后径与峡部相差多少毫米？", ""),
        ("有几项测值超出参考范围？", "1项"),
        ("超声所见写了什么？", "甲状腺左叶见低回声病灶，大小约12毫米，边缘光滑。"),
        ("超声提示写了什么？", "甲状腺左叶良性结节。"),
        ("报告中的回声是什么？", "低回声"),
        ("仪器是什么？", ""),
    ],
)
def test_a_question_is_answered_from_its_label(question, answer):
    asked = PageQuestion(question=question, answer="?", task="entity")
    assert look_up(asked, read_layout(LINES)) == answer


def test_a_choice_is_the_option_that_the_page_names_alone():
    layout = read_layout(LINES)
    kinds = PageQuestion(
        question="哪一种？", answer="囊肿", task="choice", options=("囊肿", "良性结节")
    )
    assert look_up(kinds, layout) == "良性结节"
    both = PageQuestion(question="？", answer="女", task="choice", options=("光滑", "低回声"))
    assert look_up(both, layout) == ""


def test_a_page_without_labels_answers_nothing():
    asked = PageQuestion(question="姓名是什么？", answer="?", task="entity")
    assert look_up(asked, read_layout([("一行文字",)])) == ""
