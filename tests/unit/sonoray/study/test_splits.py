from collections import Counter

import pytest

from sonoray.study.contract import SPLITS, Study
from sonoray.study.splits import SplitFractions, assign_split, class_shares, suggest_seed

FRACTIONS = SplitFractions()


def study(number, split, **labels):
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split=split, dataset="d", images=(),
        turns=(), labels=labels,
    )  # fmt: skip


def test_the_shares_of_classes_are_compared_over_the_parts_that_have_them():
    studies = [study(n, "train", kind="b" if n < 6 else "m", device=str(n)) for n in range(10)]
    studies += [study(20, "test", kind="m", sex="f"), study(21, "test", kind="b", sex="m")]
    kind, sex = class_shares(studies)
    assert (sex.label, sex.shares["test"], sex.shares["train"], sex.gap) == ("sex", 0.5, None, 0.0)
    assert (kind.label, kind.value) == ("kind", "b")
    assert kind.shares == {"train": 0.6, "validation": None, "test": 0.5}
    assert kind.gap == pytest.approx(0.1)
    assert class_shares([]) == []


def test_a_seed_is_found_that_fills_every_part_and_keeps_the_classes_together():
    patients = {f"p{n}": f"p{n}" for n in range(12)}
    classes = {patient: "bm"[number % 2] for number, patient in enumerate(patients)}
    choice = suggest_seed(patients, classes, FRACTIONS, label="kind")
    drawn = {patient: assign_split(patient, FRACTIONS, choice.seed) for patient in patients}
    assert Counter(drawn.values()) == choice.patients
    assert all(choice.patients[split] for split in SPLITS)
    shares = [
        sum(classes[p] == "m" for p in patients if drawn[p] == split) / choice.patients[split]
        for split in SPLITS
    ]
    assert max(shares) - min(shares) == pytest.approx(choice.gap)
    assert choice.gap <= 0.2
    assert choice.label == "kind"


def test_linked_patients_go_together_and_too_few_groups_have_no_seed():
    groups = {f"p{n}": f"p{n % 4}" for n in range(12)}
    choice = suggest_seed(groups, {}, FRACTIONS)
    assert sum(choice.patients.values()) == 12
    assert all(number % 3 == 0 for number in choice.patients.values())
    assert suggest_seed({"a": "a", "b": "b"}, {}, FRACTIONS) is None
    assert suggest_seed({"a": "a"}, {}, SplitFractions(train=1, validation=0, test=0)).seed == 0
