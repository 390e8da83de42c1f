import pytest

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.split_studies import describe_parts, place_studies
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.splits import SplitFractions

CONFIG = IngestConfig()


def study(number, split="", **labels):
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split=split, dataset="d", images=(),
        turns=(Turn(question="?", answer="b", task=Task.CLOSED, options=("b", "m"), topic="kind"),),
        labels=labels,
    )  # fmt: skip


PILOT = [study(n, device="ab"[n // 6], kind="bm"[n % 2]) for n in range(12)]
ALONE = {each.patient_key: each.patient_key for each in PILOT}


def described(studies, groups, config=CONFIG, published=None):
    placed = place_studies(studies, published or {}, groups, config)
    return placed, describe_parts("d", placed, groups, config, is_published=bool(published))


def test_a_pilot_with_an_empty_part_is_told_the_flag_that_fills_it(caplog):
    """Of twelve patients, with a seed under which the test part is empty."""
    for seed in range(500):
        config = IngestConfig(seed=seed)
        _, parts = described(PILOT, ALONE, config)
        if not parts["splits"]["test"]["patients"]:
            break
    choice = parts["seed"]
    assert choice["label"] == "kind"  # the class that is asked for, not the first label
    assert f"split test is empty; run it again with --set ingest.seed={choice['seed']}" in (
        caplog.text
    )
    _, mended = described(PILOT, ALONE, IngestConfig(seed=choice["seed"]))
    assert {split: sizes["patients"] for split, sizes in mended["splits"].items()} == (
        choice["patients"]
    )
    assert all(choice["patients"].values())
    assert mended["seed"] is None


def test_a_part_that_no_seed_fills_is_said_with_its_cause(caplog):
    described(PILOT, dict.fromkeys(ALONE, "p0"))
    assert "1 patients that nothing links are too few for the fractions" in caplog.text
    assert "near duplicates link 100 % of the patients into one split" in caplog.text
    assert "lower ingest.shared_image_patients" in caplog.text


def test_an_uneven_draw_of_a_filled_split_is_answered_with_a_better_seed():
    many = [study(n, kind="bm"[n % 2]) for n in range(40)]
    groups = {each.patient_key: each.patient_key for each in many}
    halves = SplitFractions(train=0.5, validation=0, test=0.5)
    found = [described(many, groups, IngestConfig(seed=n, splits=halves))[1] for n in range(20)]
    uneven = [each for each in found if each["class_shares"][0]["gap"] > 0.1]
    assert uneven
    assert all(each["seed"]["gap"] <= 0.1 for each in uneven)
    assert all(each["seed"] is None for each in found if each["class_shares"][0]["gap"] <= 0.1)


def test_a_published_split_stays_and_says_whom_it_parts(caplog):
    published = {f"s{n}": "train" if n < 8 else "test" for n in range(12)}
    groups = {**ALONE, "p9": "p0", "p11": "p10"}
    placed, parts = described(PILOT, groups, published=published)
    assert {each.study_id: each.split for each in placed} == published
    assert parts["parted"] == {"groups": 1, "patients": 2}
    assert "split parts 1 groups of patients (2 patients)" in caplog.text
    assert "split validation is empty; the published split has no such part here" in caplog.text
    assert parts["seed"] is None


@pytest.mark.parametrize("label", ["device", "kind"])
def test_the_shares_of_every_class_are_in_the_summary(label):
    _, parts = described(PILOT, ALONE)
    (found,) = [each for each in parts["class_shares"] if each["label"] == label]
    assert found["shares"].keys() == {"train", "validation", "test"}
