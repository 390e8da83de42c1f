"""Targets: tables of users, labels as numbers, and what is refused of them."""

import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Turn
from sonoray_jobs.evaluation.encoding.targets import label_targets, read_targets


def study_of(number, **labels):
    ref = f"{number}.png"
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="test", dataset="d",
        images=(StudyImage(image_id=f"i{number}", uri="", width=8, height=8, source_ref=ref),),
        turns=(Turn(question="?", answer="!"),), labels=labels,
    )  # fmt: skip


STUDIES = [study_of(number) for number in range(25)]


def table(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_gives_numbers_by_study_or_by_image(tmp_path):
    rows = [f"s{number},{number},{2 * number}" for number in range(25)]
    found = read_targets(table(tmp_path / "t.csv", ["study_id,size,half", *rows]), STUDIES)
    assert found.measured["size"]["s3"] == [3]
    assert found.measured["half"]["s3"] == [6]
    by_image = [f"{number}.png,{number}" for number in range(25)]
    found = read_targets(table(tmp_path / "u.csv", ["image,size", *by_image]), STUDIES)
    assert found.measured["size"]["s24"] == [24]


def test_several_rows_of_a_study_are_several_measurements(tmp_path):
    rows = [f"s{number},{number + extra}," for number in range(25) for extra in (0, 0.5)]
    found = read_targets(table(tmp_path / "t.csv", ["study_id,size,never", *rows]), STUDIES)
    assert found.measured["size"]["s7"] == [7, 7.5]
    assert found.left_out == {"never": "is known of 0 studies, fewer than 10"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["study,size", "s1,2"], "needs one of study_id or image"),
        (["study_id", "s1"], "a column of numbers for each target"),
        (["study_id,image,size", "s1,i1,2"], "needs one of study_id or image"),
        (["study_id,size", "s1,2", "s2,3 mm"], r"t.csv line 3, 'size' is no number"),
        (["study_id,size", "s1,nan"], "'size' is no number"),
        (["study_id,size", "other,2"], r"no row of table .* 'study_id' must hold a study's id"),
        (["study_id,size", "s1,2", "s2,3"], "size is known of 2 studies, fewer than 10"),
        (["study_id,size", *(f"s{n},1" for n in range(25))], "size is the same for all studies"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, lines, told):
    with pytest.raises(DataError, match=told):
        read_targets(table(tmp_path / "t.csv", lines), STUDIES)


@pytest.mark.parametrize(
    "lines",
    [["study_id,size", "Zhang San,2"], ["Zhang San,1970"], ["study_id,size", "s1,Zhang San"]],
)
def test_an_error_names_nobody_of_the_table(tmp_path, lines):
    with pytest.raises(DataError) as refused:
        read_targets(table(tmp_path / "t.csv", lines), STUDIES)
    assert "Zhang" not in str(refused.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_targets(tmp_path / "none.csv", STUDIES)


def test_labels_become_numbers():
    studies = [
        study_of(
            number,
            size_mm=f"{number / 2}",
            side="left" if number % 2 else "right",
            kind="abc"[number % 3],
            name=f"n{number}",
            same="x",
            study_date=f"20{number}",
        )
        for number in range(30)
    ]
    found = label_targets(studies)
    assert set(found.measured) == {"size_mm", "side=right", "kind=a", "kind=b", "kind=c"}
    assert found.measured["size_mm"]["s5"] == [2.5]
    assert found.measured["side=right"]["s5"] == [0]
    assert found.measured["kind=c"]["s5"] == [1]
    assert found.left_out == {
        "name": "has 30 values that are no numbers",
        "same=x": "is the same for all studies",
    }


def test_studies_without_labels_ask_for_a_table():
    with pytest.raises(DataError, match="give a table with --targets"):
        label_targets(STUDIES)
