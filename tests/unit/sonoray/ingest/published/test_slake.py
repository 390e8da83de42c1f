import json
from collections import Counter

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.ingest.published.slake import SlakeSource
from sonoray.study.contract import Task


def item(**changes):
    return {
        "img_name": "xmlab1/source.jpg", "question": "图中包含肝脏吗?", "answer": "包含",
        "q_lang": "zh", "answer_type": "CLOSED", "content_type": "Organ", "location": "Abdomen",
        "modality": "CT", "triple": ["vhead", "_", "_"], **changes,
    }  # fmt: skip


def write(folder, *items, name="validate.json"):
    (folder / name).write_text(json.dumps(items))
    return folder


def test_the_questions_on_an_image_in_one_language_are_a_study(tmp_path):
    english = item(q_lang="en", question="Is there a liver?", answer="Yes")
    other = item(question="哪个更大?", answer="肝脏", content_type="Size")
    source = SlakeSource(write(tmp_path, item(), english, other))
    first, second = source.iter_studies()
    assert len(source) == 2
    assert (first.ref, second.ref) == ("xmlab1/source.jpg:zh", "xmlab1/source.jpg:en")
    assert first.patient_ref == second.patient_ref
    yes, choice = first.turns
    assert (yes.task, yes.options, yes.topic) == (Task.CLOSED, ("包含", "不包含"), "organ")
    assert (choice.task, choice.options, choice.topic) == (Task.OPEN, (), "size")
    assert second.turns[0].options == ("Yes", "No")
    assert (first.labels["site"], second.labels["site"]) == ("腹部", "Abdomen")
    for language, study in (("zh", first), ("en", second)):
        (alone,) = SlakeSource(tmp_path, language=language).iter_studies()
        assert alone.turns == study.turns


def test_the_published_files_are_the_splits(tmp_path, summary_of):
    names = {"train.json": "a", "validate.json": "b", "test.json": "c"}
    for name, image in names.items():
        write(tmp_path, item(img_name=image), name=name)
    found = SlakeSource(tmp_path, split="published").iter_studies()
    assert {study.ref: study.split for study in found} == {
        "a:zh": "train", "b:zh": "validation", "c:zh": "test",
    }  # fmt: skip
    write(tmp_path, item(img_name="a"), name="test.json")
    summary = summary_of(SlakeSource(tmp_path, split="published"))
    assert summary["reasons"] == {"no_split": 1}
    assert {study.split for study in SlakeSource(tmp_path).iter_studies()} == {""}


@pytest.mark.parametrize(
    ("answer", "options"),
    [("不是", ("是的", "不是")), ("是", ("是", "不是")), ("没有", ("有", "没有")), ("肺", ())],
)
def test_yes_and_no_stand_beside_their_opposite(tmp_path, answer, options):
    (study,) = SlakeSource(write(tmp_path, item(answer=answer))).iter_studies()
    assert study.turns[0].options == options


def test_images_are_read_from_their_folder(tmp_path, picture, summary_of):
    picture(tmp_path / "imgs" / "xmlab1" / "source.jpg")
    write(tmp_path, item(), item(img_name="xmlab2/source.jpg"), item(img_name="../validate.json"))
    summary = summary_of(SlakeSource(tmp_path, tmp_path / "imgs"))
    assert summary["images"] == {"seen": 3, "kept": 1, "duplicate": 0, "quarantined": 2}
    assert summary["reasons"] == {"missing_file": 1, "outside_folder": 1, "empty_study": 2}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"img_name": "a"}, "malformed_item"),
        (item(answer_type="YES"), "malformed_item"),
        (item(q_lang="fr"), "malformed_item"),
        (item(answer=None), "malformed_item"),
        (item(img_name="b", location="Moon"), "unknown_value"),
        (item(img_name="b", answer=" ", answer_type="OPEN"), "empty_turn"),
        (7, "malformed_item"),
    ],
)
def test_a_bad_item_is_one_row_of_the_quarantine(tmp_path, summary_of, bad, reason):
    summary = summary_of(SlakeSource(write(tmp_path, item(), bad)))
    assert summary["reasons"] == {reason: 1}
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_questions_that_disagree_on_their_image_are_quarantined(tmp_path):
    (study,) = SlakeSource(write(tmp_path, item(), item(modality="MRI"))).iter_studies()
    assert study.problem.startswith("conflicting_rows:")


def test_wrong_use_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no question file"):
        SlakeSource(tmp_path)
    with pytest.raises(ConfigError, match="language 'fr' is unknown; use one of zh, en"):
        SlakeSource(write(tmp_path, item()), language="fr")


def test_the_real_questions_are_understood_in_full(shared_data):
    studies = list(SlakeSource(shared_data("slake"), language="zh").iter_studies())
    assert len(studies) == 96
    assert [study.ref for study in studies if study.problem] == []
    turns = [turn for study in studies for turn in study.turns]
    assert Counter(turn.task for turn in turns) == {Task.OPEN: 686, Task.CLOSED: 360}
    assert (
        len({study.patient_ref for study in SlakeSource(shared_data("slake")).iter_studies()})
        == 174
    )
