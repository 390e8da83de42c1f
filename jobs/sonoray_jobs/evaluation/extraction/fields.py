"""The fields of a Chinese ultrasound report: organ, size, echo, margin and grade.

A field is a value as the report words it, and its name: `低回声=回声;_2DS_=大小;`. The rules here
find the fields of a report by its wording. They make the answers that adapters learn from, and
stand for the truth where answers are judged: they are ours and no physician's, and what they do not
know is not asked for. Whether a value stands in the report at all needs no rule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARK, SEPARATOR = "=", ";"
"""Between a value and its field's name, and behind the name."""

INSTRUCTION = "提取器官、大小、回声、边缘和分级。"

_MEASURE = r"_[23]DS_|_S[CM]M_|\d+(?:\.\d+)?(?:\s*[x×*]\s*\d+(?:\.\d+)?){0,2}\s*(?:毫米|厘米|mm|cm)"
_SIDE = r"(?:双侧|左侧|右侧|双|左|右)?"

FIELDS = {
    "器官": re.compile(
        rf"(甲状腺[左右]叶|肝脏?[左右]叶|{_SIDE}(?:乳腺|甲状腺|肝脏|胆囊|胰腺|脾脏|腋下|颈部))"
    ),
    "大小": re.compile(rf"(?:大小|范围|厚径?|内?径|宽|大者)(?:约为|约|为)?({_MEASURE})"),
    "回声": re.compile(
        r"((?:囊实性?|实性)?混合回声|(?:极|稍|偏|中等?|不均质)*[低高强等]回声|无回声|囊性回声)"
    ),
    "边缘": re.compile(
        r"(边[界缘](?:[尚欠]?清[晰楚]?|不清[晰楚]?|模糊|光滑|毛刺)|形态[欠尚不]?规[整则])"
    ),
    "分级": re.compile(r"((?:BI|TI)-?RADS\s*[:：]?\s*[0-6][a-cA-C]?类?)"),
}
"""By name of a field, what its values look like; the group is the value."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field."""

    value: str
    name: str


def find_fields(report: str) -> list[Field]:
    """The fields of a report by the rules, each once, in the order in which they stand there."""
    found = [
        (match.start(1), Field(match[1], name))
        for name, pattern in FIELDS.items()
        for match in pattern.finditer(report)
    ]
    return list(dict.fromkeys(field for _, field in sorted(found, key=lambda each: each[0])))


def parse_fields(answer: str) -> list[Field]:
    """What an answer states, each once; a part without a mark is a value without a name."""
    parts = [part for part in answer.split(SEPARATOR) if part.strip()]
    stated = []
    for part in parts:
        value, _, name = part.partition(MARK)
        stated.append(Field(value.strip(), name.strip()))
    return list(dict.fromkeys(stated))


def is_hallucinated(field: Field, report: str) -> bool:
    """Whether the report does not hold the value, or there is no field of that name."""
    return not field.value or field.value not in report or field.name not in FIELDS


def question(report: str | None) -> str:
    """What a model is asked about a report; None asks without one."""
    return INSTRUCTION if report is None else f"{report}\n{INSTRUCTION}"


def answer_text(fields: Sequence[Field]) -> str:
    """Fields as an answer writes them."""
    return "".join(f"{field.value}{MARK}{field.name}{SEPARATOR}" for field in fields)
