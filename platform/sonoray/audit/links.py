"""What links studies that should be apart, or parts studies that should agree.

- leakage: a patient, an image or a near-duplicate group in more than one split;
- duplicates: images and near-duplicate groups that several studies show;
- conflicts: one picture under different labels, or with different answers to one question.

Studies pass twice. The first time numbers are kept: who is whose, which images, which split. The
second time the few studies that something was found about are looked at again.

A blank frame has no perceptual hash and says nothing of its patient, even pixel for pixel the same
(as in `ingest`): it is neither leakage nor a duplicate, and conflicts with nothing.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sonoray.audit.conflicts import MAX_STUDIES, Claims, Conflict, find_conflicts, iter_claims
from sonoray.audit.lookalikes import Looks
from sonoray.metrics.text import normalise
from sonoray.study.contract import SPLITS, Study

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
KINDS = ("patient", "image", "near duplicate")
"""What can be shared. A near duplicate is a group of at least two images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A patient, an image or a near-duplicate group that several studies share."""

    kind: str
    """One of `KINDS`."""
    splits: tuple[str, ...]
    num_studies: int
    num_patients: int
    studies: tuple[str, ...]
    """Study ids, the first ones where there are many."""
    images: tuple[str, ...]
    """The image that each of these shows; the first one where the patient is what they share."""
    distance: int
    """Largest number of differing bits between the first image and another; 0 for one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkReport:
    """What was found. Counts are complete; rows are at most as many as were asked for."""

    leakage: Mapping[str, int]
    """By kind: how many are in more than one split."""
    leaking: tuple[Shared, ...]
    duplicates: Mapping[str, Mapping[str, int]]
    """`image` and `near duplicate`: how many several studies show `within` one patient, and how
    many several patients share, `between` patients."""
    linked: tuple[Shared, ...]
    """Those between patients."""
    linked_patients: int
    """Patients who share a picture with another one."""
    conflicts: Mapping[str, int]
    """`exact` and `near`: how many."""
    conflicting: tuple[Conflict, ...]
    missing_images: int
    """Images of studies that the image table lacks."""
    unused_images: int
    """Images of the table that no study shows."""
    unique_images: Mapping[str, int]
    """By split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """One kind of sharing: which key each row of (study, image) belongs to."""

    keys: Numbers
    studies: Numbers
    images: Numbers

    def varying(self, values: Numbers) -> Numbers:
        """Return the keys, in order, whose rows have more than one of `values`."""
        size = int(self.keys.max()) + 1 if len(self.keys) else 0
        low = np.full(size, np.iinfo(np.int64).max)
        high = np.full(size, -1)
        np.minimum.at(low, self.keys, values)
        np.maximum.at(high, self.keys, values)
        return np.flatnonzero(low < high)

    def select(self, rows: Flags) -> "_View":
        """Return the rows that the flags choose."""
        return _View(keys=self.keys[rows], studies=self.studies[rows], images=self.images[rows])


class Links:
    """Collects who shares what: `add` every study in order, then `finish`."""

    def __init__(self, looks: Looks, *, max_listed: int) -> None:
        """Start with no study.

        Args:
            looks: the dataset's images.
            max_listed: most rows of each kind of finding; all are counted.
        """
        self._looks = looks
        self._max_listed = max_listed
        self._patients: dict[str, int] = {}
        self._patient_of = array("q")  # by study
        self._split_of = array("q")
        self._study_of = array("q")  # by row: a study that shows an image
        self._image_of = array("q")
        self._repeating: set[int] = set()  # studies that ask a question twice
        self._missing = 0

    def add(self, study: Study) -> None:
        """Take note of one study."""
        number = len(self._patient_of)
        self._patient_of.append(self._patients.setdefault(study.patient_key, len(self._patients)))
        self._split_of.append(SPLITS.index(study.split))
        for image in study.images:
            position = self._looks.positions.get(image.image_id)
            if position is None:
                self._missing += 1
                continue
            self._study_of.append(number)
            self._image_of.append(position)
        if len({(turn.topic, turn.question) for turn in study.turns}) < len(study.turns):
            self._repeating.add(number)

    def finish(self, studies: Iterable[Study], *, categories: Collection[str]) -> LinkReport:
        """Say what was found.

        Args:
            studies: the same studies once more, in the same order.
            categories: the labels that near duplicates must agree in.
        """
        patient_of, split_of = _numbers(self._patient_of), _numbers(self._split_of)
        views = self._views()
        leaking = {kind: view.varying(split_of[view.studies]) for kind, view in views.items()}
        pictures = {kind: view for kind, view in views.items() if kind != "patient"}
        several = {kind: view.varying(view.studies) for kind, view in pictures.items()}
        between = {kind: view.varying(patient_of[view.studies]) for kind, view in pictures.items()}
        linked_patients = [
            patient_of[view.studies[np.isin(view.keys, between[kind])]]
            for kind, view in pictures.items()
        ]
        shared = {
            (kind, key): rows
            for chosen in (leaking, between)
            for kind, keys in chosen.items()
            for key, rows in _members(views[kind], keys[: self._max_listed]).items()
        }
        claims, names = self._look_again(studies, pictures, several, shared, categories)
        counts, conflicting = find_conflicts(claims, self._looks, max_listed=self._max_listed)

        def rows(chosen: Mapping[str, Numbers]) -> tuple[Shared, ...]:
            return tuple(
                self._name(kind, shared[kind, key], names)
                for kind, keys in chosen.items()
                for key in keys[: self._max_listed].tolist()
            )

        image_of, split_of_row = _numbers(self._image_of), split_of[_numbers(self._study_of)]
        return LinkReport(
            leakage={kind: len(keys) for kind, keys in leaking.items()},
            leaking=rows(leaking),
            duplicates={
                kind: {
                    "within": len(several[kind]) - len(between[kind]),
                    "between": len(between[kind]),
                }
                for kind in pictures
            },
            linked=rows(between),
            linked_patients=len(np.unique(np.concatenate(linked_patients))),
            conflicts=counts,
            conflicting=conflicting,
            missing_images=self._missing,
            unused_images=len(self._looks.positions) - len(np.unique(image_of)),
            unique_images={
                split: len(np.unique(image_of[split_of_row == code]))
                for code, split in enumerate(SPLITS)
            },
        )

    def _views(self) -> dict[str, _View]:
        """The rows by patient, by image, and by near-duplicate group of at least two images."""
        study_of, image_of = _numbers(self._study_of), _numbers(self._image_of)
        everyone = np.arange(len(self._patient_of))
        no_image = np.full(len(everyone), -1)
        no_image[study_of[::-1]] = image_of[::-1]  # the first one is written last
        has_look = np.array([value is not None for value in self._looks.hashes], dtype=bool)
        images = _View(keys=image_of, studies=study_of, images=image_of)
        images = images.select(has_look[image_of])
        groups = self._looks.groups[images.images]
        sizes = np.bincount(self._looks.groups, minlength=1)
        near = _View(keys=groups, studies=images.studies, images=images.images)
        return {
            "patient": _View(keys=_numbers(self._patient_of), studies=everyone, images=no_image),
            "image": images,
            "near duplicate": near.select(sizes[groups] > 1),
        }

    def _look_again(
        self,
        studies: Iterable[Study],
        pictures: Mapping[str, _View],
        several: Mapping[str, Numbers],
        shared: Mapping[tuple[str, int], Sequence[tuple[int, int]]],
        categories: Collection[str],
    ) -> tuple[Claims, dict[int, str]]:
        """Read the second time: what shared pictures are called, and the ids of named studies."""
        named = {study for rows in shared.values() for study, _ in rows}
        shows: dict[int, list[tuple[bool, int, int]]] = {}  # by study: exact, picture, image
        for kind, view in pictures.items():
            exact = kind == "image"
            for key, rows in _members(view, several[kind]).items():
                for study, image in rows:
                    shows.setdefault(study, []).append((exact, key, image))
        claims: Claims = {}
        names: dict[int, str] = {}
        for number, whole in enumerate(studies):
            if number in named:
                names[number] = whole.study_id
            places = shows.get(number, [])
            if number in self._repeating and whole.images:
                first = self._looks.positions.get(whole.images[0].image_id)
                places = [*places, *([] if first is None else [(True, first, first)])]
            for exact, picture, image in places:
                for kind, name, question, value in iter_claims(whole, self._looks.image_ids[image]):
                    if exact or kind == "answer" or (kind != "text" and name in categories):
                        said = claims.setdefault((exact, picture, kind, name, question), {})
                        said.setdefault(normalise(value), (value, whole.study_id, image))
        return claims, names

    def _name(self, kind: str, rows: Sequence[tuple[int, int]], names: Mapping[int, str]) -> Shared:
        """Put ids in the place of numbers."""
        numbers = list(dict(rows))
        images = [image for _, image in rows if image >= 0]
        distances = [self._looks.distance(images[0], image) for image in set(images)]
        first = dict(reversed(rows))  # the first image of each study
        return Shared(
            kind=kind,
            splits=tuple(
                split
                for code, split in enumerate(SPLITS)
                if any(self._split_of[number] == code for number in numbers)
            ),
            num_studies=len(numbers),
            num_patients=len({self._patient_of[number] for number in numbers}),
            studies=tuple(names[number] for number in numbers[:MAX_STUDIES]),
            images=tuple(
                self._looks.image_ids[first[number]]
                for number in numbers[:MAX_STUDIES]
                if first[number] >= 0
            ),
            distance=0 if kind == "patient" else max(distances),
        )


def _numbers(values: "array[int]") -> Numbers:
    return np.array(values, dtype=np.int64)


def _members(view: _View, keys: Numbers) -> dict[int, list[tuple[int, int]]]:
    """By key: its (study, image) rows, in order."""
    chosen = np.isin(view.keys, keys)
    members: dict[int, list[tuple[int, int]]] = {}
    for key, study, image in zip(
        view.keys[chosen].tolist(),
        view.studies[chosen].tolist(),
        view.images[chosen].tolist(),
        strict=True,
    ):
        members.setdefault(key, []).append((study, image))
    return members
