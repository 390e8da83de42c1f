import pytest

from sonoray.audit.census import Census, find_texts
from sonoray.study.contract import Study, StudyImage, Task, Turn


def study(name, split="train", *, answers=(), images=(), labels=None, patient=None):
    return Study(
        study_id=name, patient_key=patient or name, split=split, dataset="d", labels=labels or {},
        images=tuple(
            StudyImage(image_id=i, uri="", width=w, height=8, labels=own) for i, w, own in images
        ),
        turns=tuple(Turn(question="?", answer=each, topic="report") for each in answers),
    )  # fmt: skip


def count(*studies):
    census = Census()
    for each in studies:
        census.add(each)
    return census.finish()


def test_studies_images_and_patients_by_split():
    counts = count(
        study("s1", images=[("a", 10, {}), ("b", 12, {})], answers=["x"], patient="p"),
        study("s2", images=[("a", 10, {})], patient="p"),
        study("s3", "test", answers=["x"]),
    )
    assert counts.patients == {"train": 1, "validation": 0, "test": 1}
    assert counts.studies == {"train": 2, "validation": 0, "test": 1}
    assert counts.images == {"train": 3, "validation": 0, "test": 0}
    assert counts.without_text == {"train": 1, "validation": 0, "test": 0}
    assert counts.without_images == {"train": 0, "validation": 0, "test": 1}
    assert {k: sum(n.values()) for k, n in counts.images_per_study.items()} == {0: 1, 1: 1, 2: 1}
    assert counts.sizes == {(10, 8): 2, (12, 8): 1}


def test_labels_by_value_and_split_and_measurements_without():
    studies = [
        study(f"s{n}", "train" if n % 2 else "test", labels={"kind": "ab"[n % 2], "mm": str(n)},
              images=[(f"i{n}", 8, {"side": "left", "caption": str(n)})])
        for n in range(50)
    ]  # fmt: skip
    counts = count(*studies)
    kind, size, side = counts.labels
    assert (kind.name, kind.num_values, kind.of_images) == ("kind", 2, False)
    assert kind.values == {
        "a": {"train": 0, "validation": 0, "test": 25},
        "b": {"train": 25, "validation": 0, "test": 0},
    }
    assert kind.missing_in_training() == ["a"]
    assert (size.name, size.num_values, size.values) == ("mm", None, {})
    assert (side.name, side.of_images, side.values["left"]["train"]) == ("side", True, 25)
    assert counts.sampled_label() == kind


def test_texts_that_repeat_up_to_blanks_and_width():
    train = ["未见异常。", "未见 异常。", "低回声。", "结节。"]
    test = ["未见异常。", "低回声。", "新的。", "新的。"]
    counts = count(study("s1", answers=train), study("s2", "test", answers=test))
    (topic,) = counts.topics
    assert topic.questions == {"train": 4, "validation": 0, "test": 4}
    assert (topic.distinct, topic.empty, topic.is_closed) == (4, 0, False)
    assert topic.repeated_share == pytest.approx(7 / 8)
    assert topic.constant_share == {"train": 0.5, "validation": None, "test": 0.25}
    assert topic.seen_share == {"validation": None, "test": 0.5}
    assert topic.top[0].number == 2


def test_a_topic_that_training_lacks_has_no_constant_answer():
    counts = count(study("s1", "test", answers=["x", " "]))
    (topic,) = counts.topics
    assert topic.constant_share == {"train": None, "validation": None, "test": None}
    assert topic.seen_share == {"validation": None, "test": None}
    assert (topic.empty, topic.top) == (1, ())


def test_captions_are_a_topic_and_closed_topics_are_known():
    turn = Turn(question="?", answer="a", task=Task.CLOSED, options=("a", "b"), topic="kind")
    image = StudyImage(image_id="i", uri="", width=8, height=8, labels={"caption": "一句"})
    whole = Study(
        study_id="s", patient_key="p", split="train", dataset="d", images=(image,), turns=(turn,)
    )
    counts = count(whole)
    assert [(t.topic, t.is_closed) for t in counts.topics] == [
        ("kind", True), ("caption of an image", False),
    ]  # fmt: skip


def test_the_texts_behind_the_hashes_are_found_on_the_way():
    studies = [study("s1", answers=["甲", "乙", "甲"]), study("s2", "test", answers=["丙"])]
    counts = count(*studies)
    found: dict[bytes, str] = {}
    wanted = {"report": {counts.topics[0].top[0].digest}}
    assert list(find_texts(studies, wanted, found)) == studies
    assert list(found.values()) == ["甲"]
    nothing: dict[bytes, str] = {}
    list(find_texts(studies, {"other": wanted["report"]}, nothing))
    assert nothing == {}
