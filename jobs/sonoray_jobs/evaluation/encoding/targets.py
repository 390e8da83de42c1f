"""What is to be predicted: a user's table of numbers, or what a dataset's labels say.

A table is a CSV file with a column `study_id` or `image` (an image's id, or where it came from) and
a column of numbers for each target. Several rows of a study are several measurements: their mean is
the target, and their spread tells how much of it can be predicted at all
(`sonoray_jobs.evaluation.encoding.ridge.noise_ceiling`). An empty cell is no measurement.

Without a table the labels are the targets: numbers as they are, a label of two values as one number
(1 for the later by name), one of up to eight as a number for each value (1 where it is that one).
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonoray.errors import DataError
from sonoray.files.csv_rows import read_csv_rows
from sonoray.study.contract import STUDY_DATE_LABEL, Study

KEYS = ("study_id", "image")
LEAST_STUDIES = 10
"""A target of fewer studies is left out."""
_MOST_VALUES = 8
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

Measurements = Mapping[str, Sequence[float]]
"""By study id, what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Numbers to be predicted."""

    measured: Mapping[str, Measurements]
    """By name of the target."""
    left_out: Mapping[str, str]
    """By name, why one is no target."""


def read_keyed_rows(path: Path, wanted: str) -> tuple[dict[int, dict[str, str]], str, list[str]]:
    """Read a CSV file whose rows are of studies or images.

    Args:
        path: the file.
        wanted: what it has to hold beside the key, in words.

    Returns:
        The rows by the number of their (last) line, the name of the key column, the names of the
        others.

    Raises:
        DataError: see `read_csv_rows`; or it has no key column or no other.
    """
    rows, header = read_csv_rows(path)
    keys = [name for name in header if name in KEYS]
    names = [name for name in header if name not in KEYS]
    if len(keys) != 1 or not names:  # what the first line says may be of a patient
        raise DataError(
            f"table {str(path)!r} needs one of {' or '.join(KEYS)}, and {wanted}, each named in "
            "its first line"
        )
    return rows, keys[0], names


def read_targets(path: Path, studies: Sequence[Study]) -> Targets:
    """Read a table.

    Raises:
        DataError: it cannot be read, has no key column or no other, a cell is no number, or no row
            is of one of the studies.
    """
    rows, key, names = read_keyed_rows(path, "a column of numbers for each target")
    of_key = studies_by(key, studies)
    found: dict[str, defaultdict[str, list[float]]] = {name: defaultdict(list) for name in names}
    num_known = 0
    for number, row in rows.items():
        study = of_key.get(row[key])
        num_known += study is not None
        for name in names:
            cell = row[name].strip()
            if cell and study is not None:
                found[name][study].append(_number(cell, f"{path.name} line {number}, {name!r}"))
    if not num_known:
        raise no_row_of_theirs(path, key, studies)
    return _kept(found)


def label_targets(studies: Sequence[Study]) -> Targets:
    """What the labels of studies say, as numbers.

    Raises:
        DataError: nothing of it can be a target.
    """
    values: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for study in studies:
        for label, value in study.labels.items():
            if label != STUDY_DATE_LABEL and value:
                values[label][study.study_id] = value
    found: dict[str, dict[str, list[float]]] = {}
    left_out: dict[str, str] = {}
    for label, told in values.items():
        known = sorted(set(told.values()))
        if all(is_number(value) for value in known):
            found[label] = {study: [float(value)] for study, value in told.items()}
        elif len(known) > _MOST_VALUES:
            left_out[label] = f"has {len(known)} values that are no numbers"
        else:
            for value in known[1:] if len(known) == 2 else known:
                found[f"{label}={value}"] = {
                    study: [float(own == value)] for study, own in told.items()
                }
    kept = _kept(found)
    return Targets(measured=kept.measured, left_out={**left_out, **kept.left_out})


def _kept(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Targets:
    measured: dict[str, Measurements] = {}
    left_out: dict[str, str] = {}
    for name, own in found.items():
        means = {sum(each) / len(each) for each in own.values()}
        if len(own) < LEAST_STUDIES:
            left_out[name] = f"is known of {len(own)} studies, fewer than {LEAST_STUDIES}"
        elif len(means) < 2:
            left_out[name] = "is the same for all studies"
        else:
            measured[name] = own
    if not measured:
        told = "; ".join(f"{name} {reason}" for name, reason in left_out.items()) or "none is there"
        raise DataError(
            f"nothing can be predicted of these studies: {told}; give a table with --targets"
        )
    return Targets(measured=measured, left_out=left_out)


def no_row_of_theirs(path: Path, key: str, studies: Sequence[Study]) -> DataError:
    """A table of other studies; its keys may name patients, and are not told."""
    what = "a study's id in the dataset" if key == "study_id" else "an image's id or source"
    return DataError(
        f"no row of table {str(path)!r} tells something of one of the {len(studies)} studies; its "
        f"column {key!r} must hold {what}"
    )


def studies_by(key: str, studies: Sequence[Study]) -> dict[str, str]:
    """Study ids by what a table calls them."""
    if key == "study_id":
        return {study.study_id: study.study_id for study in studies}
    names = {
        name: study.study_id
        for study in studies
        for image in study.images
        for name in (image.source_ref, image.image_id)
    }
    names.pop("", None)
    return names


def is_number(text: str) -> bool:
    """Whether a text is a finite number as tables write it, not only as Python reads it (1_0)."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _number(cell: str, where: str) -> float:
    if not is_number(cell):
        raise DataError(f"{where} is no number; correct it, or leave the cell empty")
    return float(cell)
