import pytest

from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.split_studies import describe_parts, place_studies
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.splits import HoldOut, SplitFractions

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


MANY = [study(n, device="abc"[n % 3], kind="bm"[n % 2]) for n in range(90)]
EACH = {each.patient_key: each.patient_key for each in MANY}


def splits_of(studies, groups=EACH, **hold):
    config = IngestConfig(hold_out=HoldOut(label="device", **hold))
    placed = place_studies(studies, {}, groups, config)
    return {each.patient_key: each.split for each in placed}


def test_patients_of_a_held_out_scanner_are_the_test_and_the_others_share_the_rest():
    split = splits_of(MANY, values=("b",))
    assert {key for key, part in split.items() if part == "test"} == {
        each.patient_key for each in MANY if each.labels["device"] == "b"
    }
    drawn = [part for part in split.values() if part != "test"]
    assert 0.7 < drawn.count("train") / len(drawn) < 0.97  # of 0.6 and 0.1: six sevenths


def test_a_scanner_that_is_held_out_to_choose_by_leaves_the_test_patients_alone():
    usual = {each.patient_key: each.split for each in place_studies(MANY, {}, EACH, CONFIG)}
    split = splits_of(MANY, values=("a", "b"), split="validation")
    device = {each.patient_key: each.labels["device"] for each in MANY}
    for key, part in split.items():
        if usual[key] == "test":
            assert part == "test"
        else:
            assert part == ("validation" if device[key] in "ab" else "train")


def test_who_is_linked_to_a_held_out_patient_is_held_out_too(caplog):
    groups = {**EACH, "p0": "p0", "p1": "p0"}  # of a and b
    split = splits_of(MANY, groups, values=("b",))
    assert (split["p0"], split["p1"], split["p4"]) == ("test", "test", "test")
    assert "test" not in {split[f"p{n}"] for n in range(3, 90, 3)}
    config = IngestConfig(hold_out=HoldOut(label="device", values=("b",)))
    parts = describe_parts("d", place_studies(MANY, {}, groups, config), groups, config,
                           is_published=False)  # fmt: skip
    assert parts["splits"]["test"]["patients"] == 31
    assert parts["seed"] is None  # no seed mends what was asked for
    assert not caplog.text


@pytest.mark.parametrize(
    ("hold", "message"),
    [
        ({"label": "device", "values": ("x",)}, r"label 'device' with 'x'; its values are \['a'"),
        ({"label": "scanner", "values": ("a",)}, r"with 'a'; the labels are \['device', 'kind'\]"),
        ({"label": "device", "values": ("a", "b", "c")}, "none is left to train on"),
    ],
)
def test_holding_out_nobody_or_everybody_is_refused(hold, message):
    config = IngestConfig(hold_out=HoldOut(**hold))
    with pytest.raises(DataError, match=message):
        place_studies(MANY, {}, EACH, config)


def test_a_published_split_holds_out_whom_its_publisher_did():
    config = IngestConfig(hold_out=HoldOut(label="device", values=("a",)))
    with pytest.raises(DataError, match="--split published takes one as it is"):
        place_studies(MANY, {"s0": "train"}, EACH, config)
