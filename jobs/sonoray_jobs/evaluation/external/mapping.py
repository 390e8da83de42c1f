"""From another dataset's studies to the questions that a model was trained on.

The model is asked in the words that it learned, with its own options. What is true comes from the
dataset: from a turn of the topic or, where a study has none, from a label of that name. So a table
of images with a label column is enough. `external.topics` says where the dataset calls a topic
otherwise, `external.values` which of its values is which option.

A value is an option where it is the same text (up to width and case), where the terms of
`sonoray.audit.terms` say so, as `malignant` and 恶性, or where both say yes or both say no, as `1`
and 有. A value that is none is counted by name, and
its study is not asked: a set with normal breasts tells nothing of a model that knows benign and
malignant alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sonoray.audit.terms import LABEL_TERMS
from sonoray.errors import ConfigError
from sonoray.metrics.answers import NO, YES
from sonoray.metrics.tokens import fold
from sonoray.study.contract import Study, Task, Turn
from sonoray_jobs.outputs.model_record import TopicRecord

_ANSWERS = (YES, NO)


@dataclass(kw_only=True, slots=True)
class TopicAccount:
    """What became of a dataset's studies on one topic."""

    name: str
    """What the dataset calls it."""
    asked: int = 0
    from_labels: int = 0
    """Of those that are asked: whose truth is a label and no turn."""
    lacking: int = 0
    """Studies without a truth."""
    contradictory: int = 0
    """Studies with two truths."""
    unmapped: Counter[str] = field(default_factory=Counter)
    """By value that is none of the options: studies."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a value of one study may be a text about it and is not told."""
        told = {value: count for value, count in self.unmapped.items() if count > 1}
        alone = sum(self.unmapped.values()) - sum(told.values())
        return asdict(self) | {"unmapped": told, "unmapped_alone": alone}


class TopicMap:
    """One topic of the model in the words of a dataset."""

    def __init__(
        self, topic: str, record: TopicRecord, *, name: str, values: Mapping[str, str]
    ) -> None:
        """Check what was given.

        Args:
            topic: what the model calls it.
            record: its question and options.
            name: what the dataset calls it.
            values: options by value of the dataset, where they differ.

        Raises:
            ConfigError: a value is mapped to something that is no option.
        """
        if wrong := sorted(set(values.values()).difference(record.options)):
            raise ConfigError(
                f"external.values.{topic} maps to {', '.join(wrong)}, which the model cannot "
                f"answer; its options are {', '.join(record.options)}"
            )
        self._topic, self._record = topic, record
        self._same = {fold(option): option for option in record.options}
        self._given = {fold(value): option for value, option in values.items()}
        self._meant = _meanings(topic, record.options)
        self.account = TopicAccount(name=name)

    def ask(self, study: Study) -> Turn | None:
        """Return the model's question to a study; None, counted, where it has no one truth."""
        account = self.account
        turns = [turn.answer for turn in study.turns if turn.topic == account.name and turn.answer]
        label = study.labels.get(account.name, "")
        values = turns or ([label] if label else [])
        if not values:
            account.lacking += 1
            return None
        options = [self._option(value) for value in values]
        if None in options:
            account.unmapped[values[options.index(None)]] += 1
            return None
        if len(set(options)) > 1:
            account.contradictory += 1
            return None
        account.asked += 1
        account.from_labels += not turns
        return Turn(
            question=self._record.question,
            answer=options[0] or "",
            task=Task.CLOSED,
            options=self._record.options,
            topic=self._topic,
        )

    def _option(self, value: str) -> str | None:
        text = fold(value.strip())
        return self._given.get(text) or self._same.get(text) or self._meant.get(text)


def map_topics(
    records: Mapping[str, TopicRecord],
    *,
    names: Mapping[str, str],
    values: Mapping[str, Mapping[str, str]],
) -> dict[str, TopicMap]:
    """Put each of a model's topics into a dataset's words.

    Args:
        records: the topics.
        names: `external.topics`, by topic.
        values: `external.values`, by topic.

    Raises:
        ConfigError: a topic is none of the model's, or a value is mapped to no option of it.
    """
    for setting, given in (("topics", names), ("values", values)):
        if unknown := sorted(set(given).difference(records)):
            raise ConfigError(
                f"external.{setting} names {', '.join(unknown)}, of which the model was asked no "
                f"closed question; its topics are {', '.join(records) or 'none'}"
            )
    return {
        topic: TopicMap(topic, record, name=names.get(topic, topic), values=values.get(topic, {}))
        for topic, record in records.items()
    }


def ask_all(studies: Iterable[Study], maps: Mapping[str, TopicMap]) -> list[Study]:
    """Return the studies with the model's questions in the place of their own turns.

    A study that nothing can be asked of is left out; the maps' accounts count why.
    """
    asked = []
    for study in studies:
        turns = [turn for each in maps.values() if (turn := each.ask(study)) is not None]
        if turns:
            asked.append(replace(study, turns=tuple(turns)))
    return asked


def _meanings(topic: str, options: Iterable[str]) -> dict[str, str]:
    """Options by what they are called elsewhere; what two of them mean is left out."""
    terms = LABEL_TERMS.get(topic)
    meant: dict[str, set[str]] = {}
    for option in options:
        same = [word for words in _ANSWERS if fold(option) in words for word in words]
        for value in (*same, *(terms.named(option) if terms else ())):
            meant.setdefault(fold(value), set()).add(option)
    return {value: found.pop() for value, found in meant.items() if len(found) == 1}
