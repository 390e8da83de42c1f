"""Figures of pages and their questions: how well they are read, how well answered.

Everything is counted by how a page was captured, since that decides how well it is read, with
intervals over reports: the pages of one report are drawn together.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.documents.document_config import QUESTION_TASKS
from sonoray.documents.page_folder import DocumentPage
from sonoray.documents.page_layout import text_of
from sonoray.documents.report_page import Line
from sonoray.metrics import Bootstrap
from sonoray.metrics.paired import Difference, paired_differences
from sonoray.metrics.reading.character_errors import num_errors, ratio_of_sums
from sonoray.metrics.reading.soft_answers import (
    EXACT,
    MEASURES,
    ROUGE,
    SOFT,
    document_score,
    exact,
)
from sonoray.metrics.resampling import Estimate, Metric, among, estimates, mean_metric
from sonoray.metrics.tables import Table
from sonoray.metrics.text import normalise
from sonoray_jobs.evaluation.documents.field_lookup import read_layout

TRUE_TEXT, LOOKUP, CONSTANT = "lookup, true text", "lookup", "constant"
"""Ways to answer beside the model's: by lookup in what was written and in what was read, and by the
commonest true answer of other reports to the same question."""
COMPARED = ((LOOKUP, TRUE_TEXT), ("text", CONSTANT), ("image", CONSTANT), ("text", LOOKUP))
"""Which ways are compared: the first minus the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One answered question."""

    page: str
    record: str
    capture: str
    task: str
    way: str
    question: str
    truth: str
    answer: str

    @property
    def score(self) -> float:
        """By the measure of its task."""
        return document_score(self.task, self.truth, self.answer)


def capture_of(page: DocumentPage) -> str:
    """How a page was captured, as tables name it."""
    return f"{page.kind} {page.strength:g}" if page.strength else page.kind


def constant_answers(pages: Sequence[DocumentPage]) -> dict[tuple[str, str], str]:
    """By report and question: the commonest true answer of the other reports, where they have one.

    A report counts each of its answers once, however many pages it has; of equally common answers
    the first in the order of the characters.
    """
    own: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for page in pages:
        for each in page.questions:
            own[page.record, each.question].add(each.answer)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (_, question), answers in own.items():
        counts[question].update(answers)
    found = {}
    for (record, question), answers in own.items():
        others = counts[question] - Counter(answers)
        found[record, question] = min(others, key=lambda said: (-others[said], said), default="")
    return found


def judge_reading(
    pages: Sequence[DocumentPage], read: Mapping[str, Sequence[Line]], bootstrap: Bootstrap
) -> dict[str, Any]:
    """How well pages are read, by capture; only pages whose text is known count."""
    known = [page for page in pages if page.lines]
    if not known:
        return {}
    errors = [num_errors(text_of(page.lines), text_of(read[page.name])) for page in known]
    said = [_recalls(page, read[page.name]) for page in known]
    captures = np.array([capture_of(page) for page in known])
    whole = {
        "character_error_rate": ratio_of_sums(errors),
        "fields_in_text": ratio_of_sums([(in_text, total) for in_text, _, total in said]),
        "fields_in_place": ratio_of_sums([(placed, total) for _, placed, total in said]),
    }
    found = {}
    for capture in dict.fromkeys(captures.tolist()):
        own = captures == capture
        values = estimates(
            {name: among(metric, own) for name, metric in whole.items()},
            [page.record for page in known],
            bootstrap,
        )
        found[capture] = {"num_pages": int(own.sum()), **_json(values)}
    return found


def _recalls(page: DocumentPage, lines: Sequence[Line]) -> tuple[int, int, int]:
    """Fields whose value stands in the text, those that stand at their label, and all."""
    text = normalise(text_of(lines))
    values = {
        normalise(label): normalise(value) for label, value in read_layout(lines).values.items()
    }
    fields = {normalise(label): normalise(value) for label, value in page.fields.items()}
    in_text = sum(value in text for value in fields.values())
    return in_text, sum(values.get(label) == value for label, value in fields.items()), len(fields)


def judge_answers(answers: Sequence[Answered], bootstrap: Bootstrap) -> dict[str, Any]:
    """Scores by way: of each task, of each measure by capture; and paired differences."""
    ways = list(dict.fromkeys(each.way for each in answers))
    sides = {way: [each for each in answers if each.way == way] for way in ways}
    metrics = {way: _metrics(side) for way, side in sides.items()}
    found: dict[str, Any] = {"ways": {}, "differences": {}}
    for way, side in sides.items():
        values = estimates(metrics[way], [each.record for each in side], bootstrap)
        found["ways"][way] = _json(values)
    for first, second in COMPARED:
        if first in sides and second in sides and len(sides[first]) == len(sides[second]):
            differences = paired_differences(
                metrics[second], metrics[first], [each.record for each in sides[first]], bootstrap
            )
            kept = {
                name: asdict(differences[name]) for name in (SOFT, ROUGE) if name in differences
            }
            found["differences"][f"{first} minus {second}"] = kept
    one = sides[ways[0]]
    found["num_questions"] = {
        **{task: sum(each.task == task for each in one) for task in QUESTION_TASKS},
        **{capture: sum(each.capture == capture for each in one) for capture in _captures(one)},
    }
    return found


def _captures(side: Sequence[Answered]) -> list[str]:
    return list(dict.fromkeys(each.capture for each in side))


def _metrics(side: Sequence[Answered]) -> dict[str, Metric]:
    """By name: of all questions of a measure, of a task, of a capture; and the exact match."""
    score = mean_metric(np.array([each.score for each in side]))
    tasks = np.array([each.task for each in side])
    captures = np.array([each.capture for each in side])
    measure = np.array([MEASURES[each.task] for each in side])
    found = {name: among(score, measure == name) for name in (SOFT, ROUGE)}
    found[EXACT] = mean_metric(np.array([exact(each.truth, each.answer) for each in side]))
    found |= {task: among(score, tasks == task) for task in QUESTION_TASKS}
    for capture in _captures(side):
        for name in (SOFT, ROUGE):
            found[f"{capture}, {name}"] = among(score, (captures == capture) & (measure == name))
    return found


def _json(values: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: None if value is None else value.to_json() for name, value in values.items()}


def reading_table(values: Mapping[str, Any]) -> Table:
    """How well pages are read, one capture a row, with the answers over them."""
    ways = values["answers"]["ways"]
    shown = [way for way in (TRUE_TEXT, LOOKUP, "text", "image") if way in ways]
    rows = []
    for capture in values["captures"]:
        own = values["reading"].get(capture)
        rows.append(
            (
                capture,
                str(values["captures"][capture]),
                *(
                    _shown(own[name]) if own else "-"
                    for name in ("character_error_rate", "fields_in_text", "fields_in_place")
                ),
                *(_shown(ways[way].get(f"{capture}, {SOFT}")) for way in shown),
                *(_shown(ways[way].get(f"{capture}, {ROUGE}")) for way in shown),
            )
        )
    header = ("capture", "pages", "character errors", "fields in the text", "fields in place")
    scores = tuple(f"{measure}: {way}" for measure in (SOFT, ROUGE) for way in shown)
    return Table(header=(*header, *scores), rows=tuple(rows))


def tasks_table(values: Mapping[str, Any]) -> Table:
    """Scores of each task, one a row."""
    answers = values["answers"]
    ways = list(answers["ways"])
    rows = []
    for task in QUESTION_TASKS:
        if number := answers["num_questions"][task]:
            own = (_shown(answers["ways"][way][task]) for way in ways)
            measure = EXACT if task == "choice" else MEASURES[task]
            rows.append((task, measure, str(number), *own))
    for name in (SOFT, ROUGE, EXACT):
        rows.append(
            (f"all: {name}", "-", "-", *(_shown(answers["ways"][way][name]) for way in ways))
        )
    return Table(header=("task", "measure", "questions", *ways), rows=tuple(rows))


def differences_table(values: Mapping[str, Any]) -> Table:
    """Paired differences of both measures."""
    rows = [
        (name, *(_signed(own.get(measure)) for measure in (SOFT, ROUGE)))
        for name, own in values["answers"]["differences"].items()
    ]
    return Table(header=("difference", SOFT, ROUGE), rows=tuple(rows))


def _shown(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None else str(Estimate(**estimate))


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    found = Difference(**difference)
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
