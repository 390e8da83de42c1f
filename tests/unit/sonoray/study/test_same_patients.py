import pytest

from sonoray.study.contract import Study, StudyImage
from sonoray.study.same_patients import (
    count_linked,
    find_shared_images,
    group_images,
    link_patients,
    plain_spelling,
)


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
    groups = link_patients(studies, spellings, group_images(hashes, 0, 1))
    assert groups == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "a"}
    assert count_linked(groups) == {"groups": 1, "patients": 3}
    assert count_linked(spellings) == {"groups": 1, "patients": 2}


def test_blank_pictures_link_nobody():
    studies = [study("a", "1"), study("b", "1")]
    groups = link_patients(studies, {"a": "a", "b": "b"}, group_images({"1": None}, 24, 0.9))
    assert groups == {"a": "a", "b": "b"}
    assert count_linked(groups) == {"groups": 0, "patients": 0}


def chain(steps):
    """A hash with `steps` times 10 bits set: neighbours differ in 10 bits, others in more."""
    return (2 ** (10 * steps) - 1).to_bytes(32)


def test_a_page_that_many_patients_show_is_found_with_its_near_duplicates():
    """Four patients show the page, two a page with another clock; a chain of likenesses is none."""
    hashes = {"page": bytes(32), "clock": chain(1), "own": b"\x0f" * 32, "blank": None}
    hashes |= {f"c{n}": chain(10 + n) for n in range(6)}
    studies = [study(f"p{n}", "page", "blank") for n in range(4)]
    studies += [study(f"q{n}", "clock", "blank") for n in range(2)]
    studies += [study("q0", "own"), study("p0", "own")]
    studies += [study(f"r{n}", f"c{n}", "blank") for n in range(6)]
    looks = group_images(hashes, 10, 1)
    assert len({looks[f"c{n}"] for n in range(6)}) == 1

    def shared(min_patients):
        return find_shared_images(studies, hashes, looks, (10, 1), min_patients=min_patients)

    assert shared(6) == {"page": 6, "clock": 6}
    assert shared(7) == shared(0) == {}
    assert shared(3).keys() == {"page", "clock", "c1", "c2", "c3", "c4"}
