"""What a model has seen is set aside, by hashes alone."""

import numpy as np
import pytest

from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.evaluation.external.seen_images import set_aside_seen

GENERATOR = np.random.default_rng(0)


def look(of=None, flipped=slice(0)):
    """A hash; or another one with some bits flipped."""
    bits = GENERATOR.integers(0, 2, 256).astype(np.uint8)
    if of is not None:
        bits = np.unpackbits(np.frombuffer(of, np.uint8))
        bits[flipped] ^= 1
    return np.packbits(bits).tobytes()


def study(name, patient, *images):
    return Study(
        study_id=name, patient_key=patient, split="test", dataset="other", turns=(),
        images=tuple(StudyImage(image_id=i, uri="", width=8, height=8) for i in images),
    )  # fmt: skip


def test_a_seen_image_takes_all_studies_of_its_patient_with_it():
    learned = {"same": look(), "like": look(), "blank": None}
    hashes = {
        "same": learned["same"],
        "near": look(learned["like"], slice(20)),
        "far": look(learned["like"], slice(-40, None)),
        "new": look(),
        "blank": None,  # a black frame is seen by its id, and looks like no other
        "white": None,
    }
    studies = [
        study("s1", "p1", "same", "new"),
        study("s2", "p1", "new"),
        study("s3", "p2", "near"),
        study("s4", "p3", "far"),
        study("s5", "p4", "new", "white"),
        study("s6", "p5", "blank"),
    ]
    left, seen = set_aside_seen(studies, hashes, learned, distance=24, correlation=0.9)
    assert [each.study_id for each in left] == ["s4", "s5"]
    assert (seen.exact_images, seen.near_images) == (2, 1)
    assert (seen.studies, seen.patients, seen.training_images) == (4, 3, 3)


def test_it_goes_through_a_third_picture():
    first = look()
    second = look(first, slice(20))
    hashes = {"b": second, "c": look(second, slice(-20, None))}
    studies = [study("s1", "p1", "b"), study("s2", "p2", "c")]
    assert not set_aside_seen(studies, hashes, {"a": first}, distance=24, correlation=0.9)[0]
    alone, _ = set_aside_seen(studies[1:], hashes, {"a": first}, distance=24, correlation=0.9)
    assert [each.study_id for each in alone] == ["s2"]


@pytest.mark.parametrize("distance", [0, 24])
def test_nothing_is_set_aside_of_other_pictures(distance):
    hashes = {f"i{number}": look() for number in range(30)}
    studies = [study(f"s{number}", f"p{number}", f"i{number}") for number in range(30)]
    left, seen = set_aside_seen(
        studies, hashes, {f"t{n}": look() for n in range(30)}, distance=distance, correlation=0.9
    )
    assert left == studies
    assert (seen.studies, seen.exact_images, seen.near_images) == (0, 0, 0)


def test_detail_decides_as_the_model_was_trained():
    """Further apart than the distance: the correlation of the model's ingest counts, no other."""
    first = look()
    apart = look(first, slice(40))
    detail = np.random.default_rng(5).integers(-90, 90, 256)
    noise = np.random.default_rng(6).integers(-70, 70, 256)
    hashes = {"b": apart + np.clip(detail + noise, -127, 127).astype(np.int8).tobytes()}
    known = {"a": first + detail.astype(np.int8).tobytes()}
    studies = [study("s1", "p1", "b")]
    for correlation, left_over in ((0.6, 0), (0.95, 1), (1.0, 1)):
        left, _ = set_aside_seen(studies, hashes, known, distance=24, correlation=correlation)
        assert len(left) == left_over
