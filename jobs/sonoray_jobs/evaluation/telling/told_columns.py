"""Patient columns in words, in front of a question, in layers.

A layered prompt after XAI4LLM: the patient's columns; what a risk model learned of them; the
patient's risk by it. The last two say something of one outcome, and stand in front of its question
alone. Site first, then what is told, then the question as it was taught, as with findings and with
statements of roles. What a column is called in prompts is a setting, since labels are English codes
and questions mostly Chinese.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.prompt import FOLLOW_UP, split_site
from sonoray_jobs.evaluation.structured.patient_columns import Record, Value
from sonoray_jobs.evaluation.structured.risk_model import NUMBER, UNKNOWN, RiskModel
from sonoray_jobs.evaluation.telling.told_words import WORDS, Words

if TYPE_CHECKING:
    from sonoray_jobs.road.risk_config import TellConfig


_MOST_KNOWN = 3
"""Columns of the risk model that the layer `knowledge` names."""


def records_of_others(patients: Sequence[str], records: Sequence[Record]) -> list[Record]:
    """Of each of S studies the record of the next one of another patient, with one where any has.

    Args:
        patients: of each study.
        records: of each study; empty where nothing is known.

    Raises:
        DataError: all studies are of one patient.
    """
    if len(set(patients)) < 2:
        raise DataError(
            f"all {len(patients)} studies are of one patient, so there is nobody else whose "
            "columns could be told; choose another split"
        )
    places = range(len(patients))
    known = [place for place in places if records[place]]

    def other(place: int) -> Record:
        for among in (known, places):
            start = bisect_right(among, place)
            for step in range(len(among)):
                each = among[(start + step) % len(among)]
                if patients[each] != patients[place]:
                    return records[each]
        raise AssertionError("there are two patients")

    return list(map(other, places))


@dataclass(frozen=True, kw_only=True, slots=True)
class Teller:
    """Puts columns into words."""

    settings: "TellConfig"
    is_number: Mapping[str, bool]
    of_topic: Mapping[str, Sequence[str]]
    """By topic: the columns that are told of its question, in order."""
    thirds: Mapping[str, Sequence[float]]
    """By column of numbers: where the middle and the upper third of training patients begin."""
    model: RiskModel | None = None
    """Of the layers `knowledge` and `risk`."""
    topic: str = ""
    """Whose question the model is about."""
    positive: str = ""
    """The option whose risk it tells."""

    def told(self, record: Record, turn: Turn) -> str:
        """What stands in front of a question; empty where nothing is known."""
        words = WORDS["en" if turn.question.isascii() else "zh"]
        layers: Mapping[str, Callable[[], str]] = {
            "values": lambda: self._values(record, turn.topic, words),
            "knowledge": lambda: self._knowledge(words) if turn.topic == self.topic else "",
            "risk": lambda: self._risk(record, words) if turn.topic == self.topic else "",
        }
        return "".join(layers[layer]() for layer in self.settings.layers) if record else ""

    def tell(self, study: Study, record: Record) -> Study:
        """A study whose closed questions are told a record."""

        def with_told(turn: Turn) -> Turn:
            if turn.task is not Task.CLOSED or turn.topic == FOLLOW_UP:
                return turn
            site, question = split_site(turn.question)
            return replace(turn, question=site + self.told(record, turn) + question)

        return replace(study, turns=tuple(map(with_told, study.turns)))

    def _values(self, record: Record, topic: str, words: Words) -> str:
        known = [name for name in self.of_topic.get(topic, ()) if name in record]
        told = words.between.join(
            self._one(name, record[name], words) for name in known[: self.settings.most]
        )
        return words.patient.format(told=told) if told else ""

    def _one(self, name: str, value: Value, words: Words) -> str:
        if not self.is_number[name]:
            said = str(value)
        elif self.settings.style == "words" and name not in self.settings.values:
            known, (low, high) = float(value), self.thirds[name]
            said = words.low if known < low else words.middle if known < high else words.high
        else:
            said = f"{value:g}"
        return self._named(name, said)

    def _named(self, name: str, said: str) -> str:
        called = self.settings.names.get(name, name)
        space = " " if called.isascii() else ""
        return f"{called}{space}{self.settings.values.get(name, {}).get(said, said)}"

    def _knowledge(self, words: Words) -> str:
        assert self.model is not None  # the layer is told
        most: dict[str, tuple[float, str]] = {}
        for name, term in self.model.terms.items():
            weights = {key: own for key, own in term.weights.items() if key != UNKNOWN}
            if term.is_number:
                said = words.high if weights[NUMBER] > 0 else words.low
                most[name] = (abs(weights[NUMBER]), said)
            elif weights:
                value = max(weights, key=lambda each: weights[each])
                most[name] = (weights[value] - min(weights.values()), value)
        best = sorted((name for name in most if most[name][0]), key=lambda name: -most[name][0])
        told = words.between.join(self._named(name, most[name][1]) for name in best[:_MOST_KNOWN])
        return words.knowledge.format(positive=self.positive, told=told) if told else ""

    def _risk(self, record: Record, words: Words) -> str:
        assert self.model is not None  # the layer is told
        percent = round(100 * self.model.probability(record))
        return words.risk.format(positive=self.positive, percent=percent)
