"""The roles of a consultation, and what each is told, in Chinese and English.

MAM (arXiv 2506.19835) has a general practitioner, specialists, a radiologist, an assistant and a
director. Its prompts are its own; these are ours. The question stands last, as the model was taught
it, and a site in front of it stays in front of everything.
"""

from dataclasses import dataclass
from typing import Literal

from sonoray.study.prompt import split_site

PRACTITIONER, RADIOLOGIST = "general-practitioner", "radiologist"
SPECIALIST, ASSISTANT = "specialist", "assistant"
DIRECTOR = "director"

ROLES = (PRACTITIONER, RADIOLOGIST, SPECIALIST, ASSISTANT)
"""Those that may be left out; the director is always there, since somebody has to answer."""

Language = Literal["zh", "en"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wordings:
    """What roles are told in one language; `{who}`, `{told}` and `{question}` are filled in."""

    names: dict[str, str]
    """By role, of specialists by their field."""
    choose: str
    state: str
    similar: str
    summarise: str
    vote: str
    agree: tuple[str, str]
    """Yes and no."""
    told: str
    """In front of what others said."""
    answer: str
    said: str
    """One statement, with `{who}` and `{text}`."""


WORDINGS: dict[Language, Wordings] = {
    "zh": Wordings(
        names={
            PRACTITIONER: "全科医生",
            RADIOLOGIST: "超声科医生",
            ASSISTANT: "医学助理",
            DIRECTOR: "主任医师",
            "breast": "乳腺外科",
            "thyroid": "甲状腺外科",
            "liver": "肝胆科",
            "kidney": "泌尿科",
            "gynaecology": "妇科",
            "obstetrics": "产科",
            "vessels": "血管外科",
            "heart": "心内科",
            "muscles": "骨科",
            "lung": "呼吸科",
            "oncology": "肿瘤科",
        },
        choose="你是{who}，这个问题请哪个科会诊？{question}",
        state="你是{who}，请说明依据。{told}{question}",
        similar="你是{who}，相似病例的报告：{told}{question}",
        summarise="你是{who}，请总结意见。{told}{question}",
        vote="你是{who}，是否同意？{told}{question}",
        agree=("同意", "不同意"),
        told="会诊意见：{told}",
        answer="{told}{question}",
        said="{who}：{text}",
    ),
    "en": Wordings(
        names={
            PRACTITIONER: "general practitioner",
            RADIOLOGIST: "radiologist",
            ASSISTANT: "medical assistant",
            DIRECTOR: "director",
            "breast": "breast surgeon",
            "thyroid": "thyroid surgeon",
            "liver": "hepatologist",
            "kidney": "urologist",
            "gynaecology": "gynaecologist",
            "obstetrics": "obstetrician",
            "vessels": "vascular surgeon",
            "heart": "cardiologist",
            "muscles": "orthopaedist",
            "lung": "pulmonologist",
            "oncology": "oncologist",
        },
        choose="You are the {who}. Whom do you ask? {question}",
        state="You are the {who}. Say what speaks for which answer. {told}{question}",
        similar="You are the {who}. Reports of similar cases: {told}{question}",
        summarise="You are the {who}. Sum up the opinions. {told}{question}",
        vote="You are the {who}. Do you agree? {told}{question}",
        agree=("yes", "no"),
        told="Opinions: {told} ",
        answer="{told}{question}",
        said="{who}: {text} ",
    ),
}
"""By language."""


def language_of(question: str) -> Language:
    """The language that roles speak about a question."""
    return "en" if question.isascii() else "zh"


def worded(form: str, question: str, *, who: str = "", told: str = "") -> str:
    """Fill in what a role is told; the site stays first.

    Args:
        form: of `Wordings`.
        question: as the model was taught it.
        who: the role's name.
        told: what others said.
    """
    site, rest = split_site(question)
    return site + form.format(who=who, told=told, question=rest)


def discussion(words: Wordings, statements: list[tuple[str, str]], most_chars: int) -> str:
    """What others said, the latest, up to a number of characters; whole statements where they fit.

    Args:
        words: of the language.
        statements: role's name and text, oldest first.
        most_chars: the most.
    """
    kept: list[str] = []
    room = most_chars
    for who, text in reversed(statements):
        said = words.said.format(who=who, text=" ".join(text.split()))
        if len(said) > room:
            if not kept:  # of the only one its beginning
                kept.append(said[:room])
            break
        kept.append(said)
        room -= len(said)
    return "".join(reversed(kept))
