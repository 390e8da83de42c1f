"""What a model is told and asked in one call, in words: three ways (`true_or_false`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sonoray.study.contract import Study

Way = Literal["exemplars", "statement", "options"]
WAYS: tuple[Way, ...] = ("exemplars", "statement", "options")

_ZH = ("答案是{option}，对吗？", "第{place}张图像：", "一二三")
_EN = ("Is the answer {option}?", "Image {place}: ", "123")
"""A statement, what stands in front of one about a picture, and the names of the pictures."""
_YES_NO_ZH, _YES_NO_EN = ("是", "不是"), ("yes", "no")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One call of the model."""

    way: Way
    option: str = ""
    """Of which it is said that it is the answer; empty of the way `options`."""
    exemplars: tuple[Study, ...] = ()
    """One of which that is right, one of which it is wrong; none of the other ways."""


def to_row(study: Study, topic: str, prompts: Sequence[Prompt]) -> dict[str, str]:
    """What an actor is given of one study."""
    asked = [
        {
            "way": each.way,
            "option": each.option,
            "exemplars": [exemplar.to_row() for exemplar in each.exemplars],
        }
        for each in prompts
    ]
    packed = {"study": study.to_row(), "topic": topic, "asked": asked}
    return {"asked": json.dumps(packed, ensure_ascii=False)}


def yes_no(question: str) -> tuple[str, str]:
    """Yes and no in the language of a question."""
    return _YES_NO_EN if question.isascii() else _YES_NO_ZH


def wording(question: str, prompt: Prompt) -> tuple[str, ...]:
    """The conversation of a prompt: texts by user and assistant in turn, the user's last."""
    if prompt.way == "options":
        return (question,)
    is_english = question.isascii()
    form, picture, names = _EN if is_english else _ZH
    says = form.format(option=prompt.option)
    asked = f"{question} {says}" if is_english else question + says
    if prompt.way == "statement":
        return (asked,)
    first, second, third = (picture.format(place=name) for name in names)
    yes, no = yes_no(question)
    return first + asked, yes, second + says, no, third + says


def read_prompt(packed: Mapping[str, Any]) -> Prompt:
    """Read back what `to_row` packed."""
    return Prompt(
        way=packed["way"],
        option=packed["option"],
        exemplars=tuple(Study.from_row(row) for row in packed["exemplars"]),
    )
