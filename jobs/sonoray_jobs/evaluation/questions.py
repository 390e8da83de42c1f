"""What an evaluation asks, of whom, and what the model had learned to answer."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.study.choosing.labels import describe_labels
from sonoray.study.contract import Study, Task, Turn, iter_studies
from sonoray.study.prompt import begins_at, with_protocol, with_site_cue
from sonoray_jobs.training.protocol import training_protocol
from sonoray_jobs.training.studies import iter_training_studies

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


def asked_studies(dataset: Path, road: "RoadConfig", split: str) -> list[Study]:
    """The studies of a split with the questions that they are asked, worded as in training.

    Args:
        dataset: folder of the dataset.
        road: `evaluate.only` and `evaluate.topics` choose, `train.site_cue` words. With
            `train.closed_first` what a report needs to know is told, and not asked.
        split: name of the split.

    Raises:
        DataError: the split is unknown or empty, or nothing of it is asked for.
    """
    studies = list(iter_studies(dataset, split=split, only=road.evaluate.only))
    if not studies:
        only = road.evaluate.only
        if only:
            labels = ", ".join(f"{label} {value}" for label, value in only.items())
            known = describe_labels(dataset, split=split, wanted=only)
            raise DataError(f"dataset {str(dataset)!r} has no {split} studies of {labels}; {known}")
        raise DataError(f"dataset {str(dataset)!r} has no {split} studies; ingest more patients")
    if road.evaluate.topics:
        everyone = iter_studies(dataset, split=split)
        topics = {turn.topic for study in everyone for turn in study.turns}
        studies = asked_about(studies, road.evaluate.topics, topics)
    protocol = training_protocol(dataset, road.train)
    if protocol.questions:
        studies = [with_protocol(study, protocol) for study in studies]
    if road.train.site_cue:  # as it was trained
        studies = [with_site_cue(study) for study in studies]
    return studies


def num_asked(studies: Iterable[Study]) -> int:
    """How many questions are asked; what is only told before one is none."""
    return sum(turn.task is not Task.CONTEXT for study in studies for turn in study.turns)


def closed_studies(studies: Sequence[Study]) -> list[Study]:
    """The studies with their closed questions alone, and what these follow.

    Raises:
        DataError: there is none.
    """
    kept = []
    for study in studies:
        turns = tuple(
            turn if turn.task is Task.CLOSED else replace(turn, task=Task.CONTEXT)
            for turn in study.turns
        )
        if any(turn.task is Task.CLOSED for turn in turns):
            kept.append(replace(study, turns=turns))
    if not kept:
        raise DataError(
            "no closed question is asked, and this counts right options; ingest questions with "
            "options, or name their topics with --set evaluate.topics"
        )
    return kept


def asked_about(
    studies: Sequence[Study], topics: Sequence[str], known: Collection[str]
) -> list[Study]:
    """Studies with their questions of some topics only.

    Args:
        studies: those to be evaluated.
        topics: what to ask about.
        known: what the split's studies are asked about.

    Raises:
        DataError: a topic is unknown, or none of these studies is asked about any.
    """
    if unknown := sorted(set(topics).difference(known)):
        raise DataError(
            f"evaluate.topics {unknown} are asked of no study; use some of {sorted(known)}"
        )
    kept = [replace(study, turns=_with_context(study.turns, topics)) for study in studies]
    kept = [study for study in kept if study.turns]
    if not kept:
        raise DataError(f"none of the studies is asked about {sorted(topics)}; name other topics")
    return kept


def _with_context(turns: Sequence[Turn], topics: Collection[str]) -> tuple[Turn, ...]:
    """The turns of some topics, and those that these follow, which are told and not asked."""
    kept: dict[int, Turn] = {}
    for number, turn in enumerate(turns):
        if turn.topic in topics:
            for before in range(begins_at(turns, number), number):
                kept.setdefault(before, replace(turns[before], task=Task.CONTEXT))
            kept[number] = turn
    return tuple(kept[number] for number in sorted(kept))


def training_answers(dataset: Path, road: "RoadConfig") -> Mapping[str, Sequence[str]]:
    """The true answers of the studies that were trained on, by topic."""
    answers: dict[str, list[str]] = defaultdict(list)
    for study in iter_training_studies(dataset, road.train):
        for turn in study.turns:
            answers[turn.topic].append(turn.answer)
    return answers
