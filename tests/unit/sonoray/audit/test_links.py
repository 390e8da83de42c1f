import hashlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sonoray.audit.links import Links
from sonoray.audit.lookalikes import Looks
from sonoray.study.contract import Study, StudyImage, Task, Turn

A_HASH = bytes(32)
NEAR = bytes(31) + b"\x03"


def looks_of(*images):
    """Looks from (id, hash, group) triples."""
    ids = [each[0] for each in images]
    return Looks(
        image_ids=ids,
        positions={image_id: place for place, image_id in enumerate(ids)},
        hashes=[each[1] for each in images],
        groups=np.array([each[2] for each in images], dtype=np.int64),
        mask_shares=np.full(len(ids), np.nan, dtype=np.float32),
    )


LOOKS = looks_of(
    ("a", A_HASH, 0), ("b", b"\x01" * 32, 1), ("a2", NEAR, 0), ("c", b"\x07" * 32, 3),
    ("black", None, 4),
)  # fmt: skip


def study(name, *images, patient=None, split="train", labels=None, turns=(), image_labels=None):
    return Study(
        study_id=name, patient_key=patient or f"p-{name}", split=split, dataset="d",
        images=tuple(
            StudyImage(image_id=i, uri="", width=1, height=1, labels=image_labels or {})
            for i in images
        ),
        turns=turns, labels=labels or {},
    )  # fmt: skip


def closed(answer, question="良性还是恶性？"):
    return Turn(
        question=question, answer=answer, task=Task.CLOSED, options=("良性", "恶性"),
        topic="pathology",
    )  # fmt: skip


def report(*studies, looks=LOOKS, max_listed=50, categories=()):
    links = Links(looks, max_listed=max_listed)
    for each in studies:
        links.add(each)
    return links.finish(studies, categories=categories)


def test_a_clean_dataset_has_nothing():
    found = report(study("s1", "a", "b"), study("s2", "c", split="test"))
    assert found.leakage == {"patient": 0, "image": 0, "near duplicate": 0}
    assert found.duplicates == {
        "image": {"within": 0, "between": 0},
        "near duplicate": {"within": 0, "between": 0},
    }
    assert found.conflicts == {"exact": 0, "near": 0}
    assert (found.leaking, found.linked, found.conflicting) == ((), (), ())
    assert (found.missing_images, found.unused_images, found.linked_patients) == (0, 2, 0)
    assert found.unique_images == {"train": 2, "validation": 0, "test": 1}


def test_a_patient_in_two_splits():
    found = report(
        study("s1", "a", patient="p"), study("s2", patient="p", split="test"), study("s3", "b")
    )
    assert found.leakage == {"patient": 1, "image": 0, "near duplicate": 0}
    (row,) = found.leaking
    assert (row.kind, row.splits, row.studies) == ("patient", ("train", "test"), ("s1", "s2"))
    assert (row.num_studies, row.num_patients, row.images, row.distance) == (2, 1, ("a",), 0)


def test_an_image_in_two_splits():
    found = report(study("s1", "b"), study("s2", "c", "b", split="validation"))
    assert found.leakage == {"patient": 0, "image": 1, "near duplicate": 0}
    (row,) = found.leaking
    assert (row.kind, row.studies, row.images) == ("image", ("s1", "s2"), ("b", "b"))
    assert found.linked_patients == 2
    assert found.duplicates["image"] == {"within": 0, "between": 1}


def test_a_near_duplicate_in_two_splits():
    found = report(study("s1", "a"), study("s2", "a2", split="test"))
    assert found.leakage == {"patient": 0, "image": 0, "near duplicate": 1}
    (row,) = found.leaking
    assert (row.images, row.distance, row.num_patients) == (("a", "a2"), 2, 2)


def test_black_frames_are_evidence_of_nothing():
    found = report(
        study("s1", "black", labels={"pathology": "benign"}),
        study("s2", "black", split="test", labels={"pathology": "malignant"}),
    )
    assert found.leakage == {"patient": 0, "image": 0, "near duplicate": 0}
    assert found.conflicts == {"exact": 0, "near": 0}
    assert found.linked_patients == 0


def test_duplicates_within_a_patient_link_nobody():
    found = report(study("s1", "a", "b", patient="p"), study("s2", "a2", "b", patient="p"))
    assert found.duplicates["image"] == {"within": 1, "between": 0}
    assert found.duplicates["near duplicate"] == {"within": 1, "between": 0}
    assert (found.linked_patients, found.linked) == (0, ())


@pytest.mark.parametrize(
    ("one", "other", "kind", "name", "values"),
    [
        ({"labels": {"birads": "2"}}, {"labels": {"birads": "4"}}, "label", "birads", ("2", "4")),
        (
            {"turns": (closed("良性"),)}, {"turns": (closed("恶性"),)},
            "answer", "pathology", ("良性", "恶性"),
        ),
        (
            {"image_labels": {"side": "left"}}, {"image_labels": {"side": "right"}},
            "image label", "side", ("left", "right"),
        ),
        (
            {"turns": (Turn(question="诊断？", answer="囊肿", topic="histology"),)},
            {"turns": (Turn(question="诊断？", answer="脂肪瘤", topic="histology"),)},
            "text", "histology", ("囊肿", "脂肪瘤"),
        ),
    ],
)  # fmt: skip
def test_one_picture_with_two_names(one, other, kind, name, values):
    found = report(study("s1", "b", **one), study("s2", "c", "b", **other))
    assert found.conflicts == {"exact": 1, "near": 0}
    (row,) = found.conflicting
    assert (row.exact, row.kind, row.name, row.values) == (True, kind, name, values)
    assert (row.studies, row.images) == (("s1", "s2"), ("b", "b"))
    assert report(study("s1", "b", **one), study("s2", "b", **one)).conflicts["exact"] == 0
    assert report(study("s1", "b", **one), study("s2", "c", **other)).conflicts["exact"] == 0


def test_reports_and_captions_and_other_questions_may_differ():
    turns = [
        (Turn(question="报告？", answer=text, task=Task.REPORT, topic="report"),)
        for text in ("一", "二")
    ]
    same = {"image_labels": {"caption": "一"}}, {"image_labels": {"caption": "二"}}
    studies = [
        study(f"s{n}", "b", turns=(*turn, closed("良恶"[n] + "性", question=f"{n}？")), **captions)
        for n, (turn, captions) in enumerate(zip(turns, same, strict=True))
    ]
    assert report(*studies).conflicts == {"exact": 0, "near": 0}


def test_near_duplicates_are_held_to_categories_and_closed_answers():
    one = study("s1", "a", labels={"pathology": "benign", "size_mm": "3"}, turns=(closed("良性"),))
    other = study("s2", "a2", labels={"pathology": "malignant", "size_mm": "4"})
    found = report(one, other, categories={"pathology"})
    assert found.conflicts == {"exact": 0, "near": 1}
    assert (found.conflicting[0].name, found.conflicting[0].exact) == ("pathology", False)
    found = report(one, replace(other, turns=(closed("恶性"),)))
    assert [row.kind for row in found.conflicting] == ["answer"]


def test_a_study_that_answers_one_question_twice():
    found = report(study("s1", "b", turns=(closed("良性"), closed("恶性"))))
    (row,) = found.conflicting
    assert (row.kind, row.values, row.studies) == ("answer", ("良性", "恶性"), ("s1", "s1"))
    assert report(study("s1", "b", turns=(closed("良性"), closed("良性")))).conflicting == ()


def test_images_that_the_table_lacks_and_those_of_no_study():
    found = report(study("s1", "a", "gone"), study("s2", "gone"))
    assert (found.missing_images, found.unused_images) == (2, 4)


def test_rows_are_bounded_and_counts_are_not():
    studies = [
        study(f"{split}-{n}", patient=f"p{n}", split=split)
        for n in range(9)
        for split in ("train", "test")
    ]
    found = report(*studies, max_listed=4)
    assert found.leakage["patient"] == 9
    assert len(found.leaking) == 4


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_comparing_all_pairs(seed):
    """Random studies over few patients, images and groups, against a plain count over pairs."""
    rng = np.random.default_rng(seed)
    ids = [f"i{n}" for n in range(24)]
    group = {i: int(rng.integers(0, 12)) for i in ids}
    hashes = {i: hashlib.sha256(i.encode()).digest() if n % 7 else None for n, i in enumerate(ids)}
    first: dict[int, int] = {}
    for n, i in enumerate(ids):
        if hashes[i]:
            first.setdefault(group[i], n)
    groups = {i: first[group[i]] if hashes[i] else n for n, i in enumerate(ids)}
    looks = looks_of(*((i, hashes[i], groups[i]) for i in ids))
    studies = [
        study(
            f"s{n}", *sorted(set(rng.choice(ids, 2).tolist())), patient=f"p{rng.integers(0, 9)}",
            split=("train", "validation", "test")[int(rng.integers(0, 3))],
        )
        for n in range(14)
    ]  # fmt: skip
    patients, images, near, between = set(), set(), set(), set()
    several = {g for g in groups.values() if sum(groups[i] == g for i in ids) > 1}
    for one, other in combinations(studies, 2):
        mine = {i.image_id for i in one.images if hashes[i.image_id]}
        yours = {i.image_id for i in other.images if hashes[i.image_id]}
        shared = {groups[i] for i in mine} & {groups[i] for i in yours}
        if one.split != other.split:
            patients |= {one.patient_key} & {other.patient_key}
            images |= mine & yours
            near |= shared & several
        if one.patient_key != other.patient_key:
            between |= mine & yours
    found = report(*studies, looks=looks)
    assert found.leakage == {
        "patient": len(patients), "image": len(images), "near duplicate": len(near),
    }  # fmt: skip
    assert found.duplicates["image"]["between"] == len(between)
    assert sum(found.leakage.values()) > 0
