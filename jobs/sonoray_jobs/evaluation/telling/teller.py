"""What is told of which question: columns that do not tell its answer, and a risk model's words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sonoray.errors import ConfigError
from sonoray.study.choosing.held_out import HoldOut, is_held_out
from sonoray.study.contract import Study, Task
from sonoray_jobs.evaluation.structured.leaks import find_leaks
from sonoray_jobs.evaluation.structured.patient_columns import Columns
from sonoray_jobs.evaluation.structured.risk_stage import Material, fit_on, gather
from sonoray_jobs.evaluation.telling.told_columns import Teller
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.risk_config import TellConfig


def check_names(settings: TellConfig, columns: Columns) -> None:
    """Refuse names and values of a column that is not there.

    Raises:
        ConfigError: there is no such column.
    """
    known = {*columns.names, *columns.left_out}
    for setting in ("names", "values"):
        if unknown := [name for name in getattr(settings, setting) if name not in known]:
            raise ConfigError(
                f"tell.{setting} names the column {unknown[0]!r}, which is not there; there are "
                f"{', '.join(sorted(known))}"
            )


def make_teller(
    dataset: Path,
    road: RoadConfig,
    name: str,
    split: str,
    table: Path | None,
    columns: Columns,
    training: Sequence[Study],
    asked: Sequence[Study],
    hold_out: HoldOut,
) -> tuple[Teller, dict[str, dict[str, str]]]:
    """What puts columns into words, and by topic the columns that would tell its answer.

    Args:
        dataset: folder of the dataset.
        road: sections `tell` and `risk`.
        name: of the dataset.
        split: whose studies are asked.
        table: of columns; by default the labels.
        columns: of the training and the asked studies.
        training: the whole training split. A column that tells a class which a training never saw
            would be taken for harmless among the studies that it saw.
        asked: the studies that are asked.
        hold_out: what the training never saw.

    Raises:
        DataError: see `gather` and `fit_on`.
    """
    model, topic, positive = None, "", ""
    if {"knowledge", "risk"} & set(road.tell.layers):
        material = gather(dataset, road, split, table, name)
        model = fit_on(material, road)
        topic = road.risk.outcome
        positive = _option(material, topic) or road.risk.positive
    everyone = {study.study_id for study in training}
    ids = {study.study_id for study in training if not is_held_out(study, hold_out)}
    topics = dict.fromkeys(
        turn.topic for study in asked for turn in study.turns if turn.task is Task.CLOSED
    )
    of_topic, leaks = {}, {}
    for each in topics:
        gone: dict[str, str] = {}
        for truth in _truths(training, each):
            gone |= find_leaks(columns, truth, each, everyone, road.risk.leak_from)
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


def _truths(training: Sequence[Study], topic: str) -> list[dict[str, str]]:
    """By study id what is right, by the questions and by the labels, which call it otherwise."""
    answers = {
        study.study_id: turn.answer
        for study in training
        for turn in study.turns
        if turn.topic == topic and turn.options
    }
    labels = {study.study_id: study.labels.get(topic, "") for study in training}
    return [{study: label for study, label in labels.items() if label}, answers]


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
