"""Pages from the phantom's records: header, measurements, findings and impression, and questions.

The lesion's size, the findings and the impression are those of the record. Names, the numbers of
examinations and the other measurements are drawn; the reference ranges are round numbers for the
sake of a table, and no clinical truth. Equal seeds give equal pages, whatever their number; the
patients are other ones than those of the phantom's dataset.
"""

from collections.abc import Iterator

import numpy as np

from sonoray.documents.report_page import Measurement, PageQuestion, ReportPage
from sonoray.phantom import PhantomConfig, StudyPlan, plan_study
from sonoray.phantom.anatomy import Organ
from sonoray.phantom.chinese import CHINESE
from sonoray.study.contract import Task

FINDINGS, IMPRESSION = "超声所见", "超声提示"
FOOTER = "声明：本页由程序生成，不用于临床。"
TITLE = "超声检查报告单"
_MARK_OF_IMPRESSION = "提示："

_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰涛明秀兰霞平刚"

_MEASURED: dict[Organ, tuple[tuple[str, str, float, float, int], ...]] = {
    Organ.THYROID: (
        ("左叶上下径", "mm", 40.0, 60.0, 1),
        ("左叶前后径", "mm", 10.0, 20.0, 1),
        ("右叶上下径", "mm", 40.0, 60.0, 1),
        ("右叶前后径", "mm", 10.0, 20.0, 1),
        ("峡部厚度", "mm", 1.0, 4.0, 1),
        ("阻力指数", "比值", 0.55, 0.75, 2),
    ),
    Organ.BREAST: (
        ("左侧腺体厚度", "mm", 8.0, 15.0, 1),
        ("右侧腺体厚度", "mm", 8.0, 15.0, 1),
        ("导管内径", "mm", 0.5, 2.0, 1),
        ("皮肤厚度", "mm", 0.5, 2.5, 1),
        ("峰值流速", "cm/s", 5.0, 20.0, 1),
        ("阻力指数", "比值", 0.50, 0.70, 2),
    ),
    Organ.LIVER: (
        ("右叶最大斜径", "mm", 100.0, 140.0, 1),
        ("左叶前后径", "mm", 40.0, 60.0, 1),
        ("门静脉内径", "mm", 8.0, 13.0, 1),
        ("胆总管内径", "mm", 3.0, 8.0, 1),
        ("脾脏厚度", "mm", 25.0, 40.0, 1),
        ("弹性值", "kPa", 2.5, 7.0, 1),
    ),
}
"""By organ: name, unit, range and decimals of what is measured."""
_OUTSIDE = 0.25
"""Share of values outside their range."""
_RULE = (
    "按规定：囊肿和钙化灶每年复查；良性结节半年后复查；恶性结节穿刺活检。根据报告，下一步如何处理？"
)
"""The knowledge that a question brings; the report says which case it is."""


def iter_records(
    phantom: PhantomConfig, number: int, seed: int
) -> Iterator[tuple[ReportPage, list[PageQuestion]]]:
    """Yield pages of patients beyond `phantom.num_patients`, each with its questions.

    Of those up to there a road may have trained on the reports.
    """
    for patient in range(phantom.num_patients, phantom.num_patients + number):
        plan = plan_study(phantom.model_copy(update={"language": "zh"}), patient)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient,)))
        page = _page(plan, rng, seed)
        yield page, _questions(plan, page, rng)


def _page(plan: StudyPlan, rng: np.random.Generator, seed: int) -> ReportPage:
    report = next(turn.answer for turn in plan.turns if turn.task is Task.REPORT)
    findings, _, impression = report.partition(_MARK_OF_IMPRESSION)
    given = [str(rng.choice(list(_GIVEN))) for _ in range(int(rng.integers(1, 3)))]
    header = (
        ("姓名", str(rng.choice(list(_SURNAMES))) + "".join(given)),
        ("性别", "女" if plan.organ is Organ.BREAST else str(rng.choice(["男", "女"]))),
        ("年龄", f"{int(rng.integers(20, 85))}岁"),
        ("检查号", f"US{int(rng.integers(10**7, 10**8))}"),
        ("检查部位", plan.site),
        (
            "检查日期",
            f"20{int(rng.integers(20, 26))}-{int(rng.integers(1, 13)):02d}"
            f"-{int(rng.integers(1, 29)):02d}",
        ),
    )
    return ReportPage(
        record=f"report-{seed}-{plan.patient:05d}",
        title=TITLE,
        header=header,
        measurements=_measurements(plan, rng),
        sections=((FINDINGS, findings), (IMPRESSION, impression)),
        footer=FOOTER,
    )


def _measurements(plan: StudyPlan, rng: np.random.Generator) -> tuple[Measurement, ...]:
    rows = [
        Measurement(
            name=name,
            value=f"{_draw(rng, low, high):.{digits}f}",
            unit=unit,
            normal=f"{low:.{digits}f}-{high:.{digits}f}",
        )
        for name, unit, low, high, digits in _MEASURED[plan.organ]
    ]
    if plan.lesion is not None:
        long = plan.lesion.size_mm
        across = long * float(rng.uniform(0.6, 0.95))
        rows += [
            Measurement(name=name, value=f"{value:.1f}", unit="mm", normal="-")
            for name, value in (("病灶长径", long), ("病灶横径", across))
        ]
    return tuple(rows)


def _draw(rng: np.random.Generator, low: float, high: float) -> float:
    """A value of a range or, of some, beside it."""
    width, place = high - low, float(rng.uniform(0.05, 0.95))
    if rng.uniform() >= _OUTSIDE:
        return low + width * place
    return high + 0.5 * width * place if rng.uniform() < 0.5 else low * (0.95 - 0.4 * place)


def _questions(plan: StudyPlan, page: ReportPage, rng: np.random.Generator) -> list[PageQuestion]:
    """The same kinds of question for every page; which rows they are about is drawn."""
    header, rows = dict(page.header), page.measurements
    first, second = (rows[int(at)] for at in rng.choice(len(rows), 2, replace=False))
    ranged = [row for row in rows if row.normal != "-"]
    with_range = ranged[int(rng.integers(len(ranged)))]
    of_unit = [row for row in rows if row.unit == "mm"]
    one, other = (of_unit[int(at)] for at in rng.choice(len(of_unit), 2, replace=False))
    difference = abs(float(one.value) - float(other.value))
    asked = [
        PageQuestion(question=f"{label}是什么？", answer=header[label], task="entity")
        for label in ("姓名", "检查号", "检查部位", "检查日期")
    ]
    asked += [
        PageQuestion(question=f"{row.name}的测值是多少？", answer=row.value, task="table")
        for row in (first, second)
    ]
    asked += [
        PageQuestion(
            question=f"{with_range.name}的参考范围是多少？", answer=with_range.normal, task="table"
        ),
        PageQuestion(
            question=f"{one.name}与{other.name}相差多少毫米？",
            answer=f"{difference:.1f}",
            task="numeric",
        ),
        PageQuestion(
            question="有几项测值超出参考范围？",
            answer=f"{sum(bool(row.mark) for row in rows)}项",
            task="numeric",
        ),
    ]
    asked += [
        PageQuestion(question=f"{heading}写了什么？", answer=text, task="short")
        for heading, text in page.sections
    ]
    if (lesion := plan.lesion) is not None:
        kinds = tuple(CHINESE.kinds.values())
        asked += [
            PageQuestion(
                question="报告提示病灶是哪一种？",
                answer=CHINESE.kinds[lesion.kind],
                task="choice",
                options=kinds,
            ),
            PageQuestion(
                question="报告中的病灶是什么回声？",
                answer=CHINESE.echoes[lesion.echogenicity],
                task="choice",
                options=tuple(CHINESE.echoes.values()),
            ),
            PageQuestion(
                question=_RULE,
                answer=CHINESE.advice[lesion.kind],
                task="choice",
                options=tuple(dict.fromkeys(CHINESE.advice.values())),
            ),
        ]
    return asked
