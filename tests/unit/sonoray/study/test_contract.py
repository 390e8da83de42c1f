import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.errors import DataError
from sonoray.study.contract import (
    SPLITS,
    Study,
    StudyImage,
    Task,
    Turn,
    iter_studies,
    write_studies,
)
from sonoray.study.prompt import names_site, with_site_cue

labels = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
images = st.builds(
    StudyImage,
    image_id=st.text(min_size=1, max_size=8),
    uri=st.text(max_size=8),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    frame_index=st.integers(0, 100),
    source_ref=st.text(max_size=8),
    labels=labels,
)
turns = st.builds(
    Turn,
    question=st.text(max_size=20),
    answer=st.text(max_size=20),
    task=st.sampled_from(Task),
    options=st.lists(st.text(max_size=5), max_size=4).map(tuple),
    topic=st.text(max_size=8),
)
studies = st.builds(
    Study,
    study_id=st.text(max_size=8),
    patient_key=st.text(max_size=8),
    split=st.sampled_from(SPLITS),
    dataset=st.text(max_size=8),
    images=st.lists(images, min_size=1, max_size=3).map(tuple),
    turns=st.lists(turns, min_size=1, max_size=3).map(tuple),
    labels=labels,
    provenance=st.text(max_size=8),
)

STUDY = Study(
    study_id="s",
    patient_key="p",
    split="train",
    dataset="d",
    images=(StudyImage(image_id="i", uri="images/part-00000.parquet", width=20, height=30),),
    turns=(Turn(question="良性还是恶性？", answer="良性", task=Task.CLOSED, options=("良性",)),),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(studies, min_size=1, max_size=5))
def test_studies_come_back_from_parquet_as_they_went(rows):
    with tempfile.TemporaryDirectory() as folder:
        write_studies(Path(folder), rows, rows_per_file=2)
        assert list(iter_studies(Path(folder))) == rows
        for split in SPLITS:
            expected = [row for row in rows if row.split == split]
            assert list(iter_studies(Path(folder), split=split)) == expected


def test_rows_are_spread_over_files(tmp_path):
    write_studies(
        tmp_path, [dataclasses.replace(STUDY, study_id=str(n)) for n in range(5)], rows_per_file=2
    )
    assert len(list((tmp_path / "studies").iterdir())) == 3
    assert [study.study_id for study in iter_studies(tmp_path)] == list("01234")


@pytest.mark.parametrize("roles", [["user"], ["assistant", "user"], ["user", "user"]])
def test_turns_that_do_not_alternate_are_refused(roles):
    row = STUDY.to_row()
    row["turns"] = [{**row["turns"][0], "role": role} for role in roles]
    with pytest.raises(DataError, match="alternate"):
        Study.from_row(row)


def test_a_study_without_images_and_turns_is_refused():
    told = Study.from_row({**STUDY.to_row(), "images": []})
    shown = Study.from_row({**STUDY.to_row(), "turns": []})
    assert (STUDY.is_complete, told.is_complete, shown.is_complete) == (True, False, False)
    with pytest.raises(DataError, match="no image and no turn"):
        Study.from_row({**STUDY.to_row(), "images": [], "turns": []})


def test_an_unknown_split_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="'dev'"):
        list(iter_studies(tmp_path, split="dev"))
    with pytest.raises(DataError, match="no studies"):
        list(iter_studies(tmp_path))


def test_only_studies_with_all_the_labels_are_read(tmp_path):
    labelled = [
        dataclasses.replace(STUDY, study_id=study_id, split=split, labels=labels)
        for study_id, split, labels in (
            ("0", "train", {"organ": "liver", "finding": "1"}),
            ("1", "train", {"organ": "breast", "finding": "1"}),
            ("2", "test", {"organ": "liver", "finding": "1"}),
            ("3", "train", {"organ": "liver", "finding": "0"}),
            ("4", "train", {}),
        )
    ]
    write_studies(tmp_path, labelled)

    def read(**given):
        return "".join(study.study_id for study in iter_studies(tmp_path, **given))

    assert read(only={}) == "01234"
    assert read(only={"organ": "liver"}) == "023"
    assert read(only={"organ": "liver", "finding": "1"}) == "02"
    assert read(split="train", only={"organ": "liver"}) == "03"
    assert read(only={"organ": "kidney"}) == ""


def test_the_site_cue_stands_before_every_question_and_changes_nothing_else():
    turns = (*STUDY.turns, Turn(question="大小？", answer="较大"))
    study = dataclasses.replace(STUDY, labels={"site": "乳腺"}, turns=turns)
    cued = with_site_cue(study)
    questions = [turn.question for turn in cued.turns]
    assert questions == ["检查部位：乳腺。良性还是恶性？", "检查部位：乳腺。大小？"]
    assert all(map(names_site, questions))
    assert not any(names_site(turn.question) for turn in turns)
    restored = [
        dataclasses.replace(turn, question=own.question)
        for turn, own in zip(cued.turns, turns, strict=True)
    ]
    assert dataclasses.replace(cued, turns=tuple(restored)) == study


def test_a_study_without_a_site_has_no_cue():
    with pytest.raises(DataError, match="study 's' of dataset 'd' has no label 'site'"):
        with_site_cue(STUDY)
