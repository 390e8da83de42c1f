import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.external.subgroups import choose_groups


def study(number, **labels):
    return Study(
        study_id=f"s{number}", patient_key="p", split="test", dataset="other", images=(), turns=(),
        labels=labels,
    )  # fmt: skip


STUDIES = [
    study(
        number,
        device=("Logiq", "Aplio")[number % 2],
        pathology=("benign", "malignant")[number % 2],
        organ="breast",
        size_mm=str(number),
        study_date=f"20{18 + number % 3}-05-01",
        **({"sex": "FM"[number % 2]} if number else {}),
    )
    for number in range(20)
]


def test_every_label_of_few_values_is_taken_and_the_others_have_a_reason():
    groups, left_out = choose_groups(STUDIES, wanted=(), truths={"pathology"})
    assert sorted(groups) == ["device", "sex", "year"]
    assert groups["year"]["s1"] == "2019"
    assert "s0" not in groups["sex"]
    assert left_out == {
        "organ": "values: 1, of 20 studies",
        "pathology": "it is the truth of a topic",
        "size_mm": "values: 20, of 20 studies",
    }


def test_what_was_examined_groups_the_other_topics_though_one_asks_for_it():
    studies = [study(n, organ=("breast", "liver")[n % 2], margin="ab"[n % 2]) for n in range(9)]
    groups, left_out = choose_groups(studies, wanted=(), truths={"organ", "margin"})
    assert (list(groups), list(left_out)) == (["organ"], ["margin"])


def test_as_many_values_as_studies_are_a_measurement():
    studies = [study(number, age=str(40 + number), site="ab"[number % 2]) for number in range(8)]
    groups, left_out = choose_groups(studies, wanted=(), truths=set())
    assert (list(groups), left_out) == (["site"], {"age": "values: 8, of 8 studies"})


def test_those_that_are_wanted_are_taken_whatever_they_are():
    groups, left_out = choose_groups(STUDIES, wanted=("organ", "year"), truths={"organ"})
    assert (list(groups), left_out) == (["organ", "year"], {})
    with pytest.raises(DataError, match=r"\['scanner'\].* device, organ, pathology, sex"):
        choose_groups(STUDIES, wanted=("scanner",), truths=set())
