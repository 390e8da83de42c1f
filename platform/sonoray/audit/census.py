"""What a dataset holds: counts by split, and texts that repeat.

Everything is counted while the studies stream by; of free texts only hashes are held. A label with
more than `MAX_VALUES` values (a size in millimetres) is a measurement: its values are not counted.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sonoray.audit.terms import CAPTION
from sonoray.metrics.text import normalise
from sonoray.study.contract import SPLITS, Study

MAX_VALUES = 40
"""Most values of a label that is counted by value."""
MAX_SAMPLED_VALUES = 8
"""Most values of a label of which sample images are shown."""
_TOP_TEXTS = 3

BySplit = Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """One label."""

    name: str
    of_images: bool
    """Whether it belongs to single images instead of studies."""
    num_values: int | None
    """Distinct values; None where there are more than `MAX_VALUES`."""
    values: Mapping[str, BySplit]
    """By value, then by split: studies (or shown images) that have it. Empty for a measurement."""

    def missing_in_training(self) -> list[str]:
        """Values that are judged and never learned."""
        train, *judged = SPLITS
        return [v for v, n in self.values.items() if not n[train] and any(n[s] for s in judged)]


class TopText(NamedTuple):
    """A frequent text, by its hash."""

    digest: bytes
    number: int
    """Of studies that say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicCount:
    """One kind of question, or the captions of images."""

    topic: str
    tasks: tuple[str, ...]
    """The tasks of its questions; empty for captions."""
    is_closed: bool
    """Whether every question names its options."""
    questions: BySplit
    distinct: int
    """Different answers, up to blanks, width and case."""
    empty: int
    repeated_share: float
    """Share of the answers that some other question of the topic has too."""
    constant_share: Mapping[str, float | None]
    """By split: share of its answers that are the most frequent one of training; None where the
    split or training has no such question. On the test split it is the score of always saying the
    same."""
    seen_share: Mapping[str, float | None]
    """By split but training: share of its answers that occur in training."""
    top: tuple[TopText, ...] = field(repr=False)
    """The most frequent answers of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """All counts of a dataset."""

    patients: BySplit
    studies: BySplit
    images: BySplit
    """Shown images; one that two studies show counts twice."""
    without_text: BySplit
    without_images: BySplit
    images_per_study: Mapping[int, BySplit]
    sizes: Mapping[tuple[int, int], int]
    """By width and height: shown images."""
    labels: tuple[LabelCount, ...]
    topics: tuple[TopicCount, ...]

    def sampled_label(self) -> LabelCount | None:
        """The first study label of 2 to `MAX_SAMPLED_VALUES` values."""
        for label in self.labels:
            if not label.of_images and 2 <= (label.num_values or 0) <= MAX_SAMPLED_VALUES:
                return label
        return None


class Census:
    """Counts studies: `add` each, then `finish`."""

    def __init__(self) -> None:
        """Start with no study."""
        self._patients: defaultdict[str, set[bytes]] = defaultdict(set)
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._per_study: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._labels: dict[tuple[bool, str], dict[str, Counter[str]]] = {}
        self._tasks: dict[str, dict[str, None]] = {}
        self._open: set[str] = set()
        self._empty: Counter[str] = Counter()
        self._answers: dict[str, dict[str, Counter[bytes]]] = {}

    def add(self, study: Study) -> None:
        """Count one study."""
        split = study.split
        self._patients[split].add(_digest(study.patient_key))
        self._counts["studies"][split] += 1
        self._counts["images"][split] += len(study.images)
        self._counts["without_text"][split] += not study.turns
        self._counts["without_images"][split] += not study.images
        self._per_study[len(study.images)][split] += 1
        self._count_labels(False, study.labels, split)
        for turn in study.turns:
            self._tasks.setdefault(turn.topic, {})[turn.task.value] = None
            if not turn.options:
                self._open.add(turn.topic)
        for image in study.images:
            self._sizes[image.width, image.height] += 1
            others = {name: value for name, value in image.labels.items() if name != CAPTION}
            self._count_labels(True, others, split)
        for topic, text in _texts(study):
            self._count_text(topic, text, split)

    def finish(self) -> Counts:
        """Return all counts."""
        return Counts(
            patients={split: len(self._patients[split]) for split in SPLITS},
            studies=_by_split(self._counts["studies"]),
            images=_by_split(self._counts["images"]),
            without_text=_by_split(self._counts["without_text"]),
            without_images=_by_split(self._counts["without_images"]),
            images_per_study={k: _by_split(n) for k, n in sorted(self._per_study.items())},
            sizes=dict(self._sizes.most_common()),
            labels=tuple(
                LabelCount(
                    name=name,
                    of_images=of_images,
                    num_values=len(values) if len(values) <= MAX_VALUES else None,
                    values={v: _by_split(n) for v, n in sorted(values.items())}
                    if len(values) <= MAX_VALUES
                    else {},
                )
                for (of_images, name), values in self._labels.items()
            ),
            topics=tuple(self._topic(topic) for topic in self._answers),
        )

    def _count_labels(self, of_images: bool, labels: Mapping[str, str], split: str) -> None:
        for name, value in labels.items():
            values = self._labels.setdefault((of_images, name), {})
            if value in values or len(values) <= MAX_VALUES:
                values.setdefault(value, Counter())[split] += 1

    def _count_text(self, topic: str, text: str, split: str) -> None:
        said = normalise(text)
        self._empty[topic] += not said
        by_split = self._answers.setdefault(topic, {name: Counter() for name in SPLITS})
        by_split[split][_digest(said)] += 1

    def _topic(self, topic: str) -> TopicCount:
        answers = self._answers[topic]
        total: Counter[bytes] = sum(answers.values(), Counter())
        train, *judged = SPLITS
        top = answers[train].most_common(_TOP_TEXTS)
        return TopicCount(
            topic=topic,
            tasks=tuple(self._tasks.get(topic, ())),
            is_closed=topic in self._tasks and topic not in self._open,
            questions={split: answers[split].total() for split in SPLITS},
            distinct=len(total),
            empty=self._empty[topic],
            repeated_share=sum(n for n in total.values() if n > 1) / total.total(),
            constant_share={
                split: _share(answers[split], [top[0][0]] if top else []) if top else None
                for split in SPLITS
            },
            seen_share={
                split: _share(answers[split], answers[train]) if top else None for split in judged
            },
            top=tuple(TopText(digest, count) for digest, count in top),
        )


_CAPTIONS = "caption of an image"


def find_texts(
    studies: Iterable[Study], wanted: Mapping[str, Collection[bytes]], found: dict[bytes, str]
) -> Iterator[Study]:
    """Yield the studies as they are, and put the texts behind some hashes into `found`.

    Args:
        studies: what goes through.
        wanted: by topic, the hashes of `TopicCount.top`.
        found: gets the first text of each hash.
    """
    for study in studies:
        for topic, text in _texts(study):
            if topic in wanted and (digest := _digest(normalise(text))) in wanted[topic]:
                found.setdefault(digest, text)
        yield study


def _texts(study: Study) -> Iterator[tuple[str, str]]:
    """Yield all answers and captions with their topics."""
    for turn in study.turns:
        yield turn.topic, turn.answer
    for image in study.images:
        if CAPTION in image.labels:
            yield _CAPTIONS, image.labels[CAPTION]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _by_split(counts: Counter[str]) -> dict[str, int]:
    return {split: counts[split] for split in SPLITS}


def _share(answers: Counter[bytes], among: Collection[bytes]) -> float | None:
    if not answers:
        return None
    return sum(n for digest, n in answers.items() if digest in among) / answers.total()
