"""Which labels a dataset's studies have, for choosing among them and for saying what there is."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from sonoray.study.contract import iter_studies

_MOST_SHOWN = 20
"""Values that a message names."""


def label_values(folder: Path, *, split: str) -> dict[str, list[str]]:
    """The values that each label has among the complete studies of a split, all sorted.

    Raises:
        DataError: the folder holds no study table, or the split's name is unknown.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for study in iter_studies(folder, split=split):
        for label, value in study.labels.items():
            found[label].add(value)
    return {label: sorted(found[label]) for label in sorted(found)}


def describe_labels(folder: Path, *, split: str, wanted: Mapping[str, str]) -> str:
    """Say, for a message, which values `wanted` labels have, or which labels there are.

    Args:
        folder: dataset folder.
        split: one of `SPLITS`.
        wanted: labels and values that no study has together.
    """
    known = label_values(folder, split=split)
    told = [f"{label} is one of {_listed(known[label])}" for label in wanted if label in known]
    if wanted.keys() - known.keys():
        told.append(f"the labels are {_listed(list(known))}")
    return "; ".join(told)


def telling_labels(folder: Path, *, split: str) -> str:
    """Say, for a message, which labels have two or more values, by which studies may be told apart.

    Args:
        folder: dataset folder.
        split: one of `SPLITS`.
    """
    known = label_values(folder, split=split)
    return _listed([label for label, values in known.items() if len(values) > 1])


def _listed(names: Sequence[str]) -> str:
    left = len(names) - _MOST_SHOWN
    return ", ".join([*names[:_MOST_SHOWN], *([f"and {left} more"] if left > 0 else [])]) or "none"
