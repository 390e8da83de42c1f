import pytest

from sonoray.study.contract import Study, StudyImage
from sonoray.study.same_patients import count_linked, link_patients, plain_spelling


def study(patient: str, *image_ids: str) -> Study:
    return Study(
        study_id=f"{patient}-{'-'.join(image_ids)}",
        patient_key=patient,
        split="",
        dataset="d",
        images=tuple(
            StudyImage(image_id=image_id, uri="", width=8, height=8) for image_id in image_ids
        ),
        turns=(),
    )


@pytest.mark.parametrize(
    "ref", ["P003", "p003", " P003 ", "P 003", "Ｐ００３", "P\u200b003", "P\u3000003", "p003\t"]
)
def test_typing_does_not_make_another_patient(ref):
    assert plain_spelling(ref) == "p003"


@pytest.mark.parametrize("ref", ["P03", "P-003", "P003a", "0P03", "张三", "张 三"])
def test_other_identifiers_stay_others(ref):
    assert plain_spelling(ref) != "p003"


def test_pictures_and_names_link_patients_and_through_each_other():
    studies = [study("a", "1"), study("b", "2"), study("c", "3"), study("d", "4"), study("e", "1")]
    spellings = {"a": "x", "b": "x", "c": "y", "d": "z", "e": "w"}
    hashes = {"1": bytes(32), "2": b"\xff" * 32, "3": b"\x0f" * 32, "4": None}
    groups = link_patients(studies, spellings, hashes, max_distance=0)
    assert groups == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "a"}
    assert count_linked(groups) == {"groups": 1, "patients": 3}
    assert count_linked(spellings) == {"groups": 1, "patients": 2}


def test_blank_pictures_link_nobody():
    studies = [study("a", "1"), study("b", "1")]
    groups = link_patients(studies, {"a": "a", "b": "b"}, {"1": None}, max_distance=24)
    assert groups == {"a": "a", "b": "b"}
    assert count_linked(groups) == {"groups": 0, "patients": 0}
