"""What is told of which question: columns that do not tell its answer, and a risk model's words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sonoray.study.contract import Study, Task
from sonoray_jobs.evaluation.structured.leaks import find_leaks
from sonoray_jobs.evaluation.structured.patient_columns import Columns
from sonoray_jobs.evaluation.structured.risk_stage import Material, fit_on, gather
from sonoray_jobs.evaluation.telling.told_columns import Teller
from sonoray_jobs.road.config import RoadConfig


def make_teller(
    dataset: Path,
    road: RoadConfig,
    name: str,
    split: str,
    table: Path | None,
    columns: Columns,
    training: Sequence[Study],
    asked: Sequence[Study],
) -> tuple[Teller, dict[str, dict[str, str]]]:
    """What puts columns into words, and by topic the columns that would tell its answer."""
    model, topic, positive = None, "", ""
    if {"knowledge", "risk"} & set(road.tell.layers):
        material = gather(dataset, road, split, table, name)
        model = fit_on(material, road)
        topic = road.risk.outcome
        positive = _option(material, topic) or road.risk.positive
    ids = {study.study_id for study in training}
    topics = dict.fromkeys(
        turn.topic for study in asked for turn in study.turns if turn.task is Task.CLOSED
    )
    of_topic, leaks = {}, {}
    for each in topics:
        truth = {
            study.study_id: turn.answer
            for study in training
            for turn in study.turns
            if turn.topic == each and turn.options
        }
        gone = find_leaks(columns, truth, each, ids, road.risk.leak_from)
        kept = [column for column in columns.names if column not in gone]
        if model is not None and each == topic:
            worth = model.worth([columns.of_study.get(own, {}) for own in ids])
            kept.sort(key=lambda column: -worth.get(column, 0.0))
        of_topic[each] = kept
        if gone:
            leaks[each] = gone
    thirds = {}
    for column in (name for name, is_number in columns.is_number.items() if is_number):
        known = [
            float(columns.of_study[each][column])
            for each in ids
            if column in columns.of_study.get(each, {})
        ]
        cuts = np.quantile(known or [0.0], [1 / 3, 2 / 3], method="nearest")
        thirds[column] = tuple(map(float, cuts))
    teller = Teller(
        settings=road.tell,
        is_number=columns.is_number,
        of_topic=of_topic,
        thirds=thirds,
        model=model,
        topic=topic,
        positive=positive,
    )
    return teller, leaks


def _option(material: Material, topic: str) -> str | None:
    """The option that positive training studies answer."""
    told = Counter(
        turn.answer
        for study in material.training
        if material.truth.get(study.study_id)
        for turn in study.turns
        if turn.topic == topic and turn.options
    )
    return told.most_common(1)[0][0] if told else None
