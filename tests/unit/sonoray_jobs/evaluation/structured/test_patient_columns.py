"""Columns of labels and tables, and those that tell the answer."""

from dataclasses import replace

import pytest

from sonoray.errors import DataError
from sonoray_jobs.evaluation.structured.leaks import find_leaks, without_leaks
from sonoray_jobs.evaluation.structured.outcomes import read_outcomes
from sonoray_jobs.evaluation.structured.patient_columns import read_columns
from sonoray_jobs.road.risk_config import RiskConfig


def read(studies, table=None, **settings):
    return read_columns(studies, table, RiskConfig(**settings), "d")


def written(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def truths(studies):
    return {study.study_id: study.labels["pathology"] for study in studies}


def test_labels_are_columns_numbers_as_numbers_and_unknown_cells_are_missing(training):
    columns = read(training)
    assert columns.names == ["device", "side", "pathology", "histology", "age"]
    assert [name for name in columns.names if columns.is_number[name]] == ["age"]
    assert "age" not in columns.of_study["train-0"]
    assert columns.of_study["train-1"]["age"] == float(training[1].labels["age"])
    assert columns.left_out == {"room": "is the same for all studies"}


def test_numbers_that_are_names_are_words(training):
    assert not read(training, codes=("age",)).is_number["age"]


def test_a_table_is_read_by_study_or_image_and_its_rows_are_averaged(tmp_path, training):
    rows = [f"train/{number}.png,{number},x{number % 2}" for number in range(12)]
    table = written(tmp_path / "t.csv", "image,age,group", *rows, "train/1.png,3,x1")
    columns = read(training, table)
    assert columns.of_study["train-1"] == {"age": 2.0, "group": "x1"}
    assert len(columns.of_study) == 12


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("age,group", "1,2"), "needs one of study_id or image"),
        (("study_id", "train-1"), "needs one of study_id or image"),
        (("study_id,age", "other,1"), "no row of table"),
        (
            ("study_id,sex", "train-1,f", "train-1,m"),
            r"study train-1, 'sex' has 2 different values \(lines 2, 3\); give one",
        ),
        (
            ("study_id,age", "train-1,40", "train-2,41", "train-1,70"),
            r"'age' has 2 different values \(lines 2, 4\)",
        ),
        (("study_id,age,age", "train-1,40,41"), "line 1 has one name for the columns 2 and 3"),
        (("study_id,age,sex", "train-1,40,f", "train-2,41"), "line 3 has 2 cells and line 1 has 3"),
        (("study_id,age,sex", "train-1,40,f,x"), "line 2 has 4 cells and line 1 has 3"),
        (("study_id,age", "train-1,40"), "known of 1 studies, fewer than 5"),
    ],
)
def test_a_table_that_says_nothing_is_refused(tmp_path, training, lines, told):
    with pytest.raises(DataError, match=told):
        read(training, written(tmp_path / "t.csv", *lines))


def rows_of(values):
    return [f"train-{number},{value}" for number, value in enumerate(values)]


@pytest.mark.parametrize("empty", ["NA", "NaN", "nan", "N/A", "null", "NULL", " na "])
def test_what_stands_for_an_empty_cell_is_one(tmp_path, training, empty):
    table = written(tmp_path / "t.csv", "study_id,age", *rows_of([*range(40, 60), empty]))
    columns = read(training, table)
    assert columns.is_number == {"age": True}
    assert "train-20" not in columns.of_study
    assert columns.remarks == []


def test_few_cells_that_are_no_number_are_remarked_without_their_value(tmp_path, training):
    values = [*range(40, 58), "Zhang", "ca. 60"]
    table = written(tmp_path / "t.csv", "study_id,age", *rows_of(values))
    told = "column 'age' is taken as words: 2 of 20 cells are no number"
    assert read(training, table).remarks == [told]
    assert read(training, table, codes=("age",)).remarks == []
    many = written(tmp_path / "m.csv", "study_id,age", *rows_of([*range(40, 54), *["unknown"] * 6]))
    assert read(training, many).remarks == [
        "column 'age' is taken as words: 6 of 20 cells are no number"
    ]
    spelt = written(tmp_path / "s.csv", "study_id,age", *rows_of([*range(40, 58), "1_0", "４５"]))
    assert read(training, spelt).is_number == {"age": False}
    words = written(tmp_path / "u.csv", "study_id,place", *rows_of([*"abcdef" * 3, 1, 2]))
    assert read(training, words).remarks == []


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e308", "1e155"])
def test_numbers_that_cannot_be_squared_are_refused(tmp_path, training, value):
    table = written(tmp_path / "t.csv", "study_id,age", *rows_of([*range(40, 60), value]))
    with pytest.raises(DataError, match=r"column 'age' has values beyond 1e\+100; mend them"):
        read(training, table)
    assert read(training, table, codes=("age",)).is_number == {"age": False}
    places = written(tmp_path / "u.csv", "study_id,place", *rows_of(["sup", value] * 10))
    assert read(training, places).is_number == {"place": False}


def test_rows_of_no_study_of_the_dataset_are_counted(tmp_path, training):
    rows = rows_of(range(200))
    table = written(tmp_path / "t.csv", "study_id,age", *rows, "who,1", "what,2", "who,3")
    columns = read_columns(training[:100], table, RiskConfig(), "d", training)
    assert columns.remarks == ["3 rows of t.csv are of no study of the dataset"]


@pytest.mark.parametrize("header", ["study_id,age", "image,age", "Zhang San,1970"])
def test_an_error_names_nobody_of_the_table_and_no_picture(tmp_path, training, header):
    with pytest.raises(DataError) as refused:
        read(training, written(tmp_path / "t.csv", header, "Zhang San,41"))
    assert "Zhang" not in str(refused.value)
    assert ".png" not in str(refused.value)
    assert "study_id" in str(refused.value) or "'image' must hold" in str(refused.value)


def test_columns_are_chosen_in_order_and_the_others_are_read_too(training):
    columns = read(training, columns=("age", "side"))
    assert columns.names == ["device", "side", "pathology", "histology", "age"]
    chosen = columns.only(("age", "side"))
    assert chosen.names == ["age", "side"]
    assert set(chosen.of_study["train-1"]) == {"age", "side"}
    assert chosen.left_out == columns.left_out
    assert columns.only(()) == columns
    with pytest.raises(DataError, match="column 'room' is the same for all studies; name others"):
        read(training, columns=("room",))


def test_a_dataset_without_columns_is_refused(training):
    bare = [replace(study, labels={"study_date": "20240101"}) for study in training]
    with pytest.raises(DataError, match=r"'d' has no patient column; give a CSV with --table"):
        read(bare)


def test_an_unknown_column_is_refused(training):
    with pytest.raises(DataError, match="column 'weight' is known of no study; there are age, "):
        read(training, columns=("weight",))


def test_columns_that_tell_the_outcome_are_left_out_and_named(training):
    columns = read(training)
    ids = {study.study_id for study in training}
    kept = without_leaks(columns, truths(training), RiskConfig(), ids)
    assert kept.names == ["device", "side", "age"]
    assert kept.left_out["pathology"] == "is 'pathology' itself"
    assert kept.left_out["histology"] == "alone tells 'pathology' of 400 of 400 training studies"
    assert "histology" not in kept.of_study["train-1"]


def test_a_column_that_tells_the_outcome_is_refused_where_it_is_asked_for(training):
    ids = {study.study_id for study in training}
    settings = RiskConfig(columns=("age", "histology"))
    columns = read(training, columns=settings.columns)
    with pytest.raises(DataError, match=r"'histology' alone tells .*; leave it out"):
        without_leaks(columns, truths(training), settings, ids)
    allowed = settings.model_copy(update={"allow_leaks": True})
    assert "histology" in without_leaks(columns, truths(training), allowed, ids).names


@pytest.mark.parametrize(
    ("outcomes", "is_leak"),
    [("aaaaabbbbbcccc", True), ("aaaaabbbbbaaaa", False), ("ababababababab", False)],
)
def test_a_number_tells_outcomes_that_lie_side_by_side(training, outcomes, is_leak):
    studies = training[1 : 1 + len(outcomes)]
    values = {study.study_id: {"size": float(at)} for at, study in enumerate(studies)}
    columns = read(training).without({})
    columns = type(columns)(is_number={"size": True}, of_study=values, left_out={})
    truth = {study.study_id: each for study, each in zip(studies, outcomes, strict=True)}
    assert bool(find_leaks(columns, truth, "class", set(truth), 0.98)) is is_leak


def test_an_outcome_is_a_label_or_an_answer(training):
    assert read_outcomes(training, "pathology", "malignant") == read_outcomes(
        training, "pathology", "恶性"
    )
    with pytest.raises(DataError, match=r"'pathology' is never 'bad'; .* benign, malignant"):
        read_outcomes(training, "pathology", "bad")
    with pytest.raises(DataError, match="'grade' is neither a closed question's topic nor a label"):
        read_outcomes(training, "grade", "bad")


def test_a_column_that_is_known_with_one_outcome_alone_tells_it(training):
    studies = training[:40]
    truth = {study.study_id: "ab"[number % 2] for number, study in enumerate(studies)}
    known = {study: {"margin": f"{number % 4}x"} for number, study in enumerate(truth)
             if truth[study] == "a"}  # fmt: skip
    columns = replace(read(training), is_number={"margin": False}, of_study=known)
    told = find_leaks(columns, truth, "finding", set(truth), 0.98)
    assert told == {"margin": "is known or unknown as 'finding' has it"}


def test_a_rare_outcome_makes_no_column_a_leak(training):
    truth = {study.study_id: "b" if number < 2 else "a" for number, study in enumerate(training)}
    assert find_leaks(read(training), truth, "rare", set(truth), 0.98) == {}
