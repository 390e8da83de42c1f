"""Compare two finished evaluations of the same questions: is one model better, and how sure.

An evaluation is named by its folder, or by the training that it judged: MLflow run id, run name, or
the beginning of either. Everything is read from the workspace; neither Ray nor MLflow is asked. The
predictions stand in Parquet, so two runs can be compared long after both were made.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray.errors import DataError
from sonoray.metrics import (
    AnswerRecord,
    Bootstrap,
    TopicComparison,
    compare_all_closed,
    compare_answers,
)
from sonoray.metrics.paired import is_right
from sonoray.metrics.tables import comparison_table, disagreement_table
from sonoray.metrics.text import normalise
from sonoray.study.contract import SPLITS
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.finished import Evaluation, find_evaluation, named_folder, read_named
from sonoray_jobs.evaluation.predictions import read_predictions, to_record

DEFAULT_SPLIT = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """One question with two different answers."""

    study_id: str
    topic: str
    question: str
    truth: str
    first: str
    second: str
    first_right: bool
    second_right: bool

    def lines(self) -> list[str]:
        """What a person reads; it holds a patient's texts."""
        marks = {True: "right", False: "wrong"}
        return [
            f"study {self.study_id}, {self.topic}: {self.question}",
            f"  truth:          {self.truth}",
            f"  first ({marks[self.first_right]}):  {self.first}",
            f"  second ({marks[self.second_right]}): {self.second}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Two evaluations side by side."""

    first: Evaluation
    second: Evaluation
    num_studies: int
    topics: Sequence[TopicComparison]
    all_closed: TopicComparison | None
    """Of the closed questions of all topics; None where there is none."""
    disagreements: Sequence[Disagreement]
    """As many as were asked for; those where one alone is right come first."""
    changed: Mapping[str, tuple[Any, Any]]
    """Settings that differ, by dotted key: the first's value and the second's."""

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = [*self.topics, *([self.all_closed] if self.all_closed else [])]
        num_questions = sum(topic.num_questions for topic in self.topics)
        return [
            f"first:  {self.first.title}",
            f"second: {self.second.title}",
            *self._changed_lines(),
            f"{self.first.dataset}, {self.first.split}: {num_questions} questions of "
            f"{self.num_studies} studies, 95 % intervals and p values over patients (McNemar's "
            "over questions), not corrected for their number",
            *comparison_table(rows).text(),
            "",
            *disagreement_table(rows).text(),
            *(line for item in self.disagreements for line in ["", *item.lines()]),
        ]

    def _changed_lines(self) -> list[str]:
        shown = [
            f"  {key}: {json.dumps(one, ensure_ascii=False)}, {json.dumps(two, ensure_ascii=False)}"
            for key, (one, two) in self.changed.items()
        ]
        return ["settings that differ (first, second):", *shown] if shown else []

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "dataset": self.first.dataset,
            "split": self.first.split,
            "num_studies": self.num_studies,
            "changed": {
                key: {"first": one, "second": two} for key, (one, two) in self.changed.items()
            },
            "topics": {topic.topic: topic.to_json() for topic in self.topics},
            "all_closed": self.all_closed.to_json() if self.all_closed else None,
            "disagreements": [item.to_json() for item in self.disagreements],
        }


def run(
    *,
    workspace: Workspace,
    first: str,
    second: str,
    split: str | None = None,
    show: int = 0,
) -> Compared:
    """Compare two evaluations.

    Args:
        workspace: where the evaluations of a training are looked for.
        first: an evaluation, by folder or by training.
        second: the other one; differences are second minus first.
        split: the split of both; by default that of a folder that is named, else `test`.
        show: how many questions to list on which they disagree.

    Raises:
        DataError: one is unknown or has no evaluation, or the two do not belong together.
    """
    if split is not None and split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    folders = [folder for name in (first, second) if (folder := named_folder(name)) is not None]
    if split is None:
        split = read_named(folders[0]).split if folders else DEFAULT_SPLIT
    one, other = (find_evaluation(workspace, name, split) for name in (first, second))
    _check_pair(one, other, split)
    rows = _paired_rows(one, other)
    bootstrap = Bootstrap(num_resamples=one.config["bootstrap_samples"], seed=one.config["seed"])
    records = [[to_record(row) for row in side] for side in rows]
    topics = compare_answers(
        records[0], records[1], positive=one.config["positive_options"], bootstrap=bootstrap
    )
    return Compared(
        first=one,
        second=other,
        num_studies=len({record.study_id for record in records[0]}),
        topics=topics,
        all_closed=compare_all_closed(records[0], records[1], bootstrap=bootstrap),
        disagreements=_disagreements(rows, records)[:show],
        changed=changed_settings(one.settings, other.settings),
    )


def _check_pair(first: Evaluation, second: Evaluation, split: str) -> None:
    if first.path == second.path:
        raise DataError(f"both names mean the evaluation {str(first.path)!r}; name two")
    for item in (first, second):
        if item.split != split:
            raise DataError(
                f"{str(item.path)!r} is of the split {item.split!r}, not {split!r}; compare two "
                "evaluations of one split"
            )
    if first.dataset_key != second.dataset_key:
        names = (
            f"{first.dataset!r} and {second.dataset!r}"
            if first.dataset != second.dataset
            else f"two different states of {first.dataset!r}, ingested anew between them"
        )
        raise DataError(
            f"{first.training!r} and {second.training!r} were evaluated on {names}; only answers "
            "to the same questions can be compared: train and evaluate both on one dataset"
        )


def _paired_rows(
    first: Evaluation, second: Evaluation
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Predictions of both, in the order of the first's questions.

    Raises:
        DataError: a question of one was not asked of the other.
    """
    rows, others = (_by_question(read_predictions(item.path)) for item in (first, second))
    alone = len(rows.keys() ^ others.keys())
    if alone:
        raise DataError(
            f"{str(first.path)!r} and {str(second.path)!r} do not hold the same questions "
            f"({len(rows)} and {len(others)}, {alone} of one alone); evaluate both again"
        )
    return list(rows.values()), [others[question] for question in rows]


def _by_question(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by study, topic, truth, and how often the study has had them before.

    Not by the question: under `train.site_cue` the same one has other words.
    """
    seen: Counter[tuple[Any, ...]] = Counter()
    found = {}
    for row in rows:
        question = (row["study_id"], row["topic"], row["truth"])
        found[*question, seen[question]] = row
        seen[question] += 1
    return found


def _disagreements(
    rows: Sequence[Sequence[Mapping[str, Any]]], records: Sequence[Sequence[AnswerRecord]]
) -> list[Disagreement]:
    """All questions with two different answers; those that one alone answers right first."""
    found = [
        Disagreement(
            study_id=one.study_id,
            topic=one.topic,
            question=row["question"],
            truth=one.truth,
            first=one.answer,
            second=other.answer,
            first_right=is_right(one),
            second_right=is_right(other),
        )
        for row, one, other in zip(rows[0], *records, strict=True)
        if normalise(one.answer) != normalise(other.answer)
    ]
    return sorted(found, key=lambda item: item.first_right == item.second_right)
