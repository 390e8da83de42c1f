import json
from collections import Counter

import pytest

from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.published.usreport import UsReportSource
from sonoray.ingest.run import ingest
from sonoray.privacy.report_text import clean_text
from sonoray.study.contract import Task, iter_studies
from sonoray.workspace import Workspace


def item(uid, **changes):
    names = [f"{uid}_1.jpeg", f"{uid}_2.jpeg"]
    return {
        "uid": uid, "finding": f"左叶结节，大小约_2DS_，编号{uid}。", "image_path": names,
        "labels": 3, "split": "train", **changes,
    }  # fmt: skip


def write(folder, name="Thyroid_trainval.json", **splits):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(splits or {"train": [item(1)], "val": [item(2, split="val")]}))
    return path


def test_a_report_is_a_study_of_text_alone(tmp_path):
    write(tmp_path)
    source = UsReportSource(tmp_path)
    first, second = source.iter_studies()
    assert len(source) == 2
    assert (first.ref, first.patient_ref, first.images) == ("thyroid/1", "1", ())
    (turn,) = first.turns
    assert (turn.task, turn.topic) == (Task.REPORT, "report")
    assert turn.answer == "左叶结节，大小约_2DS_，编号1。"
    expected = {"organ": "thyroid", "site": "甲状腺", "cluster": "3", "published_split": "val"}
    assert second.labels == expected


def test_the_published_split_is_that_of_each_report(tmp_path, summary_of):
    path = write(
        tmp_path, train=[item(1)], val=[item(2, split="val")], test=[item(3, split="test")]
    )
    source = UsReportSource(path, split="published")
    assert [study.split for study in source.iter_studies()] == ["train", "validation", "test"]
    assert source.config() == {"images": False, "split": "published"}
    splits = summary_of(source)["splits"]
    assert [each["studies"] for each in splits.values()] == [1, 1, 1]
    assert {study.split for study in UsReportSource(path).iter_studies()} == {""}


def test_images_are_read_from_a_folder_or_one_per_organ(tmp_path, picture, summary_of):
    path = write(tmp_path / "texts")
    for number, name in enumerate(["1_1", "1_2", "2_1"]):
        picture(tmp_path / "flat" / f"{name}.jpeg", number)
        picture(tmp_path / "own" / "Thyroid_report" / f"{name}.jpeg", number)
    for images in ("flat", "own"):
        source = UsReportSource(path, tmp_path / images)
        problems = [image.problem[:12] for study in source.iter_studies() for image in study.images]
        assert problems == ["", "", "", "missing_file"]
    summary = summary_of(source)
    assert summary["images"] == {"seen": 4, "kept": 3, "duplicate": 0, "quarantined": 1}
    assert summary["reasons"] == {"missing_file": 1}
    digests = {UsReportSource(path).input_digest(), source.input_digest()}
    picture(tmp_path / "own" / "Thyroid_report" / "1_1.jpeg", 9)
    assert len(digests | {source.input_digest()}) == 3


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"uid": 3}, "malformed_item"),
        (item("3"), "malformed_item"),
        (item(3, finding=None), "malformed_item"),
        (item(3, image_path="a.jpeg"), "malformed_item"),
        (item(3, split="dev"), "malformed_item"),
        (item(3, split="val"), "conflicting_rows"),
        ("text", "malformed_item"),
        (item(3, finding=" "), "empty_turn"),
        (item(1, finding="别的。"), "repeated_ref"),
    ],
)
def test_a_bad_item_is_one_row_of_the_quarantine(tmp_path, summary_of, bad, reason):
    write(tmp_path, train=[item(1), bad])
    summary = summary_of(UsReportSource(tmp_path))
    assert summary["reasons"] == {reason: 1}
    assert summary["studies"] == {"seen": 2, "kept": 1, "duplicate": 0, "quarantined": 1}


def test_an_image_path_cannot_leave_the_folder(tmp_path, picture, summary_of):
    picture(tmp_path / "secret.jpeg")
    (tmp_path / "images").mkdir()
    write(tmp_path / "t", train=[item(1), item(2, image_path=["../secret.jpeg"])])
    summary = summary_of(UsReportSource(tmp_path / "t" / "Thyroid_trainval.json"))
    assert summary["studies"]["kept"] == 2
    study = list(UsReportSource(tmp_path / "t", tmp_path / "images").iter_studies())[1]
    assert study.images[0].problem.startswith("outside_folder:")
    assert study.images[0].data == b""


def test_an_unreadable_file_costs_itself_alone(tmp_path, summary_of):
    write(tmp_path)
    (tmp_path / "Liver_trainval.json").write_text("{")
    (tmp_path / "Mammary_trainval.json").write_text('{"train": 3}')
    write(tmp_path, "Kidney.json")
    source = UsReportSource(tmp_path)
    assert len(source) == 5
    assert summary_of(source)["reasons"] == {"unreadable_file": 3}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Liver_trainval.json", "", "is empty"),
        ("Liver_trainval.json", "[]", "expected is {split: "),
        ("Liver_report_x1.json", "{}", "names no organ; call it like Mammary_trainval.json"),
        ("readme.txt", "", "no report file in"),
    ],
)
def test_a_folder_without_reports_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        UsReportSource(tmp_path)


def test_the_real_reports_go_in_whole(tmp_path, shared_data):
    source = UsReportSource(shared_data("usreport_zh"))
    output = ingest(source, Workspace.open(tmp_path), IngestConfig())
    summary = output.manifest["summary"]
    assert summary["studies"] == {"seen": 5890, "kept": 5890, "duplicate": 0, "quarantined": 0}
    assert summary["without_images"] == 5890
    studies = list(iter_studies(output.path, complete=False))
    assert Counter(study.labels["site"] for study in studies) == {
        "乳腺": 2810, "甲状腺": 1965, "肝脏": 1115,
    }  # fmt: skip
    assert sum("_2DS_" in study.turns[0].answer for study in studies) > 1000


def test_cleaning_changes_none_of_the_published_reports(shared_data):
    """They hold nothing that identifies, and every measure, clock position and category."""
    source = UsReportSource(shared_data("usreport_zh"))
    texts = [turn.answer for study in source.iter_studies() for turn in study.turns]
    assert len(texts) == 5890
    assert [text for text in texts if clean_text(text).text != text] == []
