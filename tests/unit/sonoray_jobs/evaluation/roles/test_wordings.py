"""What roles are told, what of a discussion is passed on, and how a drawn text is read."""

import pytest

from sonoray_jobs.evaluation.roles.alone import read_option
from sonoray_jobs.evaluation.roles.wordings import (
    DIRECTOR,
    ROLES,
    SPECIALIST,
    WORDINGS,
    discussion,
    language_of,
    worded,
)
from sonoray_jobs.road.consult_config import ConsultConfig

ZH = WORDINGS["zh"]


def test_the_question_stands_last_and_the_site_first():
    told = worded(ZH.state, "检查部位：肝脏。边缘如何？", who="超声科医生", told="会诊意见：好。")
    assert told == "检查部位：肝脏。你是超声科医生，请说明依据。会诊意见：好。边缘如何？"
    assert worded(ZH.answer, "边缘如何？") == "边缘如何？"


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_role_and_field_has_a_name_in_each_language(language):
    names = WORDINGS[language].names
    fields = ConsultConfig.model_fields["specialties"].annotation.__args__[0].__args__
    wanted = {*ROLES, DIRECTOR, *fields} - {SPECIALIST}
    assert set(names) == wanted
    assert len(set(names.values())) == len(wanted)
    assert len(set(WORDINGS[language].agree)) == 2


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (99, "甲：一二三\n乙：四五六\n丙：七\n"),
        (10, "乙：四五六\n丙：七\n"),
        (9, "丙：七\n"),
        (3, "丙：七"),
        (0, ""),
    ],
)
def test_of_a_discussion_the_latest_is_kept_whole_where_it_fits(most, kept):
    statements = [("甲", "一二三"), ("乙", " 四五六 "), ("丙", "七")]
    words = WORDINGS["zh"]
    line = type(words)(**{**{name: getattr(words, name) for name in words.__dataclass_fields__},
                          "said": "{who}：{text}\n"})  # fmt: skip
    assert discussion(line, statements, most) == kept


def test_the_language_is_the_question_s():
    assert language_of("Is it benign?") == "en"
    assert language_of("BI-RADS是几类？") == "zh"


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("光滑", "光滑"),
        ("边缘光滑。", "光滑"),
        ("不规则", "不规则"),
        ("边缘不规则。", "不规则"),
        ("光滑或不规则", None),
        ("看不清", None),
        ("", None),
    ],
)
def test_a_drawn_text_counts_for_the_option_that_it_alone_names(text, option):
    assert read_option(text, ("光滑", "规则", "不规则")) == option
