import random
from dataclasses import replace

import pytest

from sonoray.audit.samples import Samples
from sonoray.study.contract import Study, StudyImage


def study(name, *images, split="train", **labels):
    """A study of images, each named by its id; `-` before it: it does not show the finding."""
    return Study(
        study_id=name, patient_key=name, split=split, dataset="d", labels=labels, turns=(),
        images=tuple(
            StudyImage(
                image_id=image.removeprefix("-"), uri="", width=8, height=8,
                labels={"shows_finding": "0"} if image.startswith("-") else {},
            )
            for image in images
        ),
    )  # fmt: skip


def draw(*studies, label="kind", num_images=3):
    samples = Samples(label, num_images=num_images)
    assert list(samples.watch(studies)) == list(studies)
    return samples.rows()


def test_the_draw_is_the_same_whatever_the_order_and_shows_the_finding():
    studies = [study(f"s{n}", f"-plain{n}", f"i{n}", kind="ab"[n % 2]) for n in range(30)]
    shuffled = random.Random(0).sample(studies, len(studies))
    rows = draw(*studies)
    assert rows == draw(*shuffled)
    assert rows.keys() == {("a", "train"), ("b", "train")}
    for (value, _), ids in rows.items():
        assert len(set(ids)) == 3
        assert all(i.startswith("i") and int(i[1:]) % 2 == "ab".index(value) for i in ids)
    assert rows["a", "train"] != ["i0", "i2", "i4"]


def test_a_row_shows_many_studies_and_is_filled_from_few():
    one, two = study("s1", *(f"a{n}" for n in range(9))), study("s2", "b0", "-b1")
    for num_images, of_two in ((2, ["b0"]), (4, ["b0", "b1"]), (9, ["b0", "b1"])):
        (ids,) = draw(one, two, num_images=num_images).values()
        assert len(ids) == num_images
        assert [i for i in ids if i.startswith("b")] == of_two
        assert {ids[0][0], ids[1][0]} == {"a", "b"}


def test_studies_without_the_label_have_rows_of_their_own():
    studies = [
        study("s1", "i1", kind="a"),
        study("s2", "i2"),
        study("s3", "i3", split="test", side="left"),
        study("s4"),
    ]
    assert draw(*studies) == {
        ("a", "train"): ["i1"], ("", "train"): ["i2"], ("", "test"): ["i3"],
    }  # fmt: skip
    rows = draw(*studies, label=None)
    assert {group: set(ids) for group, ids in rows.items()} == {
        ("", "train"): {"i1", "i2"}, ("", "test"): {"i3"},
    }  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
def test_an_image_of_two_studies_is_drawn_once_by_its_better_turn(order):
    studies = [study("s1", "x", "-shared"), study("s2", "shared"), study("s3", "-y", "z")]
    (ids,) = draw(*studies[::order], num_images=3).values()
    assert set(ids) == {"x", "shared", "z"}


def test_images_are_grouped_by_a_label_of_their_own():
    images = [
        StudyImage(image_id=name, uri="", width=8, height=8, labels=labels)
        for name, labels in (("i1", {"kind": "a"}), ("i2", {"kind": "b"}), ("i3", {}))
    ]
    whole = replace(study("s1", kind="study"), images=tuple(images))
    samples = Samples("kind", num_images=2, of_images=True)
    assert list(samples.watch([whole])) == [whole]
    assert samples.rows() == {("a", "train"): ["i1"], ("b", "train"): ["i2"], ("", "train"): ["i3"]}
