"""The rules on reports as they are written, and what an answer states."""

import pytest

from sonoray_jobs.evaluation.extraction.fields import (
    Field,
    answer_text,
    find_fields,
    is_hallucinated,
    parse_fields,
)

BREAST = (
    "双侧乳腺腺体结构稍紊乱，右侧乳腺_Loc_区距乳头_SCM_处见一低回声结节，大小约_2DS_，"
    "边界尚清晰，形态规整，CDFI示未探及血流信号。余未见明显异常回声。"
)
PHANTOM = "甲状腺左叶见无回声病灶，大小约12毫米，边缘毛刺，内见钙化，后方回声增强。"


def test_the_fields_of_a_report_stand_in_its_order_and_once():
    assert [(field.value, field.name) for field in find_fields(BREAST * 2)] == [
        ("双侧乳腺", "器官"),
        ("右侧乳腺", "器官"),
        ("低回声", "回声"),
        ("_2DS_", "大小"),
        ("边界尚清晰", "边缘"),
        ("形态规整", "边缘"),
    ]
    assert [(field.value, field.name) for field in find_fields(PHANTOM)] == [
        ("甲状腺左叶", "器官"),
        ("无回声", "回声"),
        ("12毫米", "大小"),
        ("边缘毛刺", "边缘"),
    ]


@pytest.mark.parametrize(
    ("text", "value", "name"),
    [
        ("考虑BI-RADS 4A类", "BI-RADS 4A类", "分级"),
        ("TI-RADS:3类", "TI-RADS:3类", "分级"),
        ("范围约12×8mm", "12×8mm", "大小"),
        ("呈囊实混合回声", "囊实混合回声", "回声"),
        ("见极低回声", "极低回声", "回声"),
        ("边界不清晰", "边界不清晰", "边缘"),
    ],
)
def test_values_as_they_are_worded(text: str, value: str, name: str):
    assert Field(value, name) in find_fields(text)


@pytest.mark.parametrize("text", ["未见明显异常回声", "后方回声增强", "距乳头_SCM_处", "血流丰富"])
def test_what_is_no_field(text: str):
    assert find_fields(text) == []


def test_an_answer_states_what_it_was_written_from():
    fields = find_fields(BREAST)
    assert parse_fields(answer_text(fields)) == fields
    assert parse_fields("低回声=回声;低回声=回声;清晰") == [
        Field("低回声", "回声"),
        Field("清晰", ""),
    ]
    assert parse_fields("") == []


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Field("低回声", "回声"), False),
        (Field("_SCM_", "大小"), False),  # wrong by the rules, and yet it stands there
        (Field("高回声", "回声"), True),
        (Field("低回声", "颜色"), True),
        (Field("", "回声"), True),
    ],
)
def test_a_hallucination_is_what_the_report_does_not_hold(field: Field, expected: bool):
    assert is_hallucinated(field, BREAST) is expected
