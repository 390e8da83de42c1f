"""Chinese text from the known truth: captions, reports, questions and answers.

The vocabulary is small and every sentence has at most two wordings, so that a tiny language model
learns it in a minute. The wording is drawn independently of the truth, and the options of a closed
question always stand in the same order: no question can be answered better than by its most
frequent answer without looking at the images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sonoray.phantom.anatomy import Organ
from sonoray.phantom.lesion import Echogenicity, Kind, Lesion, Margin, Posterior, Side, SizeClass
from sonoray.study.contract import Task, Turn

ORGANS = {Organ.THYROID: "甲状腺", Organ.BREAST: "乳腺", Organ.LIVER: "肝脏"}
SIDES = {Side.LEFT: "左侧", Side.RIGHT: "右侧"}
ECHOES = {
    Echogenicity.ANECHOIC: "无回声",
    Echogenicity.HYPO: "低回声",
    Echogenicity.ISO: "等回声",
    Echogenicity.HYPER: "高回声",
}
MARGINS = {Margin.SMOOTH: "光滑", Margin.SPICULATED: "毛刺"}
KINDS = {
    Kind.CYST: "囊肿",
    Kind.BENIGN: "良性结节",
    Kind.MALIGNANT: "恶性结节",
    Kind.CALCIFIED: "钙化灶",
}
POSTERIORS = {
    Posterior.NONE: "",
    Posterior.SHADOW: "，后方见声影",
    Posterior.ENHANCEMENT: "，后方回声增强",
}
SIZES = {SizeClass.SMALL: "较小", SizeClass.MEDIUM: "中等", SizeClass.LARGE: "较大"}
ADVICE = {
    Kind.CYST: "建议每年复查。",
    Kind.BENIGN: "建议半年后复查。",
    Kind.MALIGNANT: "建议穿刺活检。",
    Kind.CALCIFIED: "建议每年复查。",
}
PRESENCE = {True: "有", False: "无"}
PATHOLOGY = {False: "良性", True: "恶性"}


def place_name(organ: Organ, side: Side) -> str:
    """Name the scanned half of an organ."""
    if organ is Organ.BREAST:
        return SIDES[side] + ORGANS[organ]
    return ORGANS[organ] + SIDES[side][0] + "叶"


def finding_sentence(organ: Organ, lesion: Lesion, size_mm: float, wording: int) -> str:
    """Describe a lesion of `size_mm` in one sentence; `wording` is 0 or 1."""
    place, echo = place_name(organ, lesion.side), ECHOES[lesion.echogenicity]
    margin = f"边缘{MARGINS[lesion.margin]}"
    calcification = "内见钙化" if lesion.calcified else "未见钙化"
    size = f"大小约{round(size_mm)}毫米"
    posterior = POSTERIORS[lesion.posterior]
    if wording == 0:
        return f"{place}见{echo}病灶，{size}，{margin}，{calcification}{posterior}。"
    return f"{place}探及{echo}病灶，{margin}，{calcification}，{size}{posterior}。"


def normal_sentence(place: str, wording: int) -> str:
    """Describe a half or a whole organ without a lesion; `wording` is 0 or 1."""
    return (f"{place}回声均匀，未见病灶。", f"{place}未见病灶，回声均匀。")[wording]


def report_text(organ: Organ, lesion: Lesion | None, wording: int) -> str:
    """Write the report of a study: what was seen, and the impression."""
    if lesion is None:
        name = ORGANS[organ]
        return f"{normal_sentence(name, wording)}提示：{name}未见异常。"
    sentence = finding_sentence(organ, lesion, lesion.size_mm, wording)
    return f"{sentence}提示：{place_name(organ, lesion.side)}{KINDS[lesion.kind]}。"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Query:
    """A question about a lesion."""

    topic: str
    wordings: tuple[str, str]
    answer: Callable[[Lesion], str]
    options: tuple[str, ...] = ()


_LESION_QUERIES = (
    _Query(
        topic="echogenicity",
        wordings=("病灶是什么回声？", "病灶的回声如何？"),
        answer=lambda lesion: ECHOES[lesion.echogenicity],
        options=tuple(ECHOES.values()),
    ),
    _Query(
        topic="margin",
        wordings=("病灶边缘光滑还是毛刺？", "病灶的边缘如何？"),
        answer=lambda lesion: MARGINS[lesion.margin],
        options=tuple(MARGINS.values()),
    ),
    _Query(
        topic="calcification",
        wordings=("病灶内有无钙化？", "病灶有钙化吗？"),
        answer=lambda lesion: PRESENCE[lesion.calcified],
        options=tuple(PRESENCE.values()),
    ),
    _Query(
        topic="pathology",
        wordings=("病灶是良性还是恶性？", "病灶的性质如何？"),
        answer=lambda lesion: PATHOLOGY[lesion.malignant],
        options=tuple(PATHOLOGY.values()),
    ),
    _Query(
        topic="side",
        wordings=("病灶在左侧还是右侧？", "病灶在哪一侧？"),
        answer=lambda lesion: SIDES[lesion.side],
        options=tuple(SIDES.values()),
    ),
    _Query(
        topic="size",
        wordings=("病灶有多大？", "病灶的大小如何？"),
        answer=lambda lesion: f"病灶{SIZES[lesion.size_class]}。",
    ),
    _Query(
        topic="recommendation",
        wordings=("下一步如何处理？", "有什么建议？"),
        answer=lambda lesion: ADVICE[lesion.kind],
    ),
)


def write_turns(
    rng: np.random.Generator,
    organ: Organ,
    lesion: Lesion | None,
    *,
    organs: tuple[Organ, ...],
    ask_finding: bool,
) -> tuple[Turn, ...]:
    """Write the questions and answers of a study.

    Args:
        rng: draws the wordings only.
        organ: what was scanned.
        lesion: what was found, None where nothing was.
        organs: all organs that occur, the options of the organ question; one alone is not asked.
        ask_finding: whether to ask if there is a lesion at all.
    """

    def pick(wordings: tuple[str, str]) -> str:
        return wordings[int(rng.integers(2))]

    turns = [
        Turn(
            question=pick(("请写出超声报告。", "请描述这组超声图像。")),
            answer=report_text(organ, lesion, int(rng.integers(2))),
            task=Task.REPORT,
            topic="report",
        )
    ]
    if len(organs) > 1:
        turns.append(
            Turn(
                question=pick(("检查的是哪个器官？", "这是什么器官？")),
                answer=ORGANS[organ],
                task=Task.CLOSED,
                topic="organ",
                options=tuple(ORGANS[other] for other in organs),
            )
        )
    if ask_finding:
        turns.append(
            Turn(
                question=pick(("图像中有无病灶？", "有没有看到病灶？")),
                answer=PRESENCE[lesion is not None],
                task=Task.CLOSED,
                topic="finding",
                options=tuple(PRESENCE.values()),
            )
        )
    if lesion is not None:
        turns.extend(
            Turn(
                question=pick(query.wordings),
                answer=query.answer(lesion),
                task=Task.CLOSED if query.options else Task.OPEN,
                topic=query.topic,
                options=query.options,
            )
            for query in _LESION_QUERIES
        )
    return tuple(turns)
