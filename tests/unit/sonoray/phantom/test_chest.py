"""The second modality: known findings where they are drawn, and texts and labels that name them."""

from collections import Counter

import numpy as np
import pytest

from sonoray.ingest.sources.synthetic import PhantomSource, draw_study
from sonoray.phantom import PhantomConfig, build_study, plan_study
from sonoray.phantom.chest import build_chest, plan_chest
from sonoray.phantom.lesion import Side
from sonoray.phantom.projection import ChestFinding, ChestTruth, draw_chest
from sonoray.study.contract import Task

CONFIG = PhantomConfig(modality="projection", image_size=96, num_patients=6)


def truth(finding, side=Side.LEFT, **changes):
    values = {"size": 0.8, "x": 0.1, "y": 0.1} | changes
    return ChestTruth(finding=finding, side=side, **values)


def drawn(finding, side=Side.LEFT, size=96):
    return draw_chest(truth(finding, side), np.random.default_rng(3), size)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("finding", [k for k in ChestFinding if k is not ChestFinding.CARDIOMEGALY])
def test_a_finding_changes_the_picture_on_its_own_side(finding, side):
    clean, none = drawn(None)
    image, mask = drawn(finding, side)
    assert not none.any()
    own = slice(48, 96) if side is Side.LEFT else slice(0, 48)  # the right is on the left
    assert (mask > 0).sum() == (mask[:, own] > 0).sum() > 20
    change = np.abs(image.astype(int) - clean.astype(int))
    assert change[:, own].sum() > 5 * (change.sum() - change[:, own].sum())


def test_dense_findings_are_bright_and_air_is_dark():
    clean, _ = drawn(None)
    for finding in (ChestFinding.NODULE, ChestFinding.EFFUSION, ChestFinding.CONSOLIDATION):
        image, mask = drawn(finding)
        assert image[mask > 0].mean() > clean[mask > 0].mean() + 25
    image, _ = drawn(ChestFinding.PNEUMOTHORAX)
    assert (image.astype(int) - clean).min() < -15


def test_an_enlarged_heart_is_wider_than_half_of_the_chest():
    widths = {}
    for finding in (None, ChestFinding.CARDIOMEGALY):
        image, _ = drawn(finding, size=192)
        row = image[int(0.62 * 192)]
        widths[finding] = int((row > 130).sum())
    assert widths[ChestFinding.CARDIOMEGALY] > widths[None] + 15


def test_a_study_hangs_on_seed_patient_and_number_alone():
    one, again = build_chest(CONFIG, 4), build_chest(CONFIG, 4)
    for image, other in zip(one.images, again.images, strict=True):
        assert np.array_equal(image.data, other.data)
    assert len({build_chest(CONFIG, 4).images[0].data.tobytes() for _ in range(2)}) == 1
    later = build_chest(CONFIG, 4, 1)
    assert later.labels == one.labels
    assert not np.array_equal(later.images[0].data, one.images[0].data)
    seeded = CONFIG.model_copy(update={"seed": 1})
    assert [plan_chest(seeded, n) for n in range(6)] != [plan_chest(CONFIG, n) for n in range(6)]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_labels_and_answers_say_what_is_drawn(language):
    config = CONFIG.model_copy(update={"language": language, "num_patients": 60})
    counts = Counter()
    for patient in range(60):
        study, plan = build_chest(config, patient), plan_chest(config, patient)
        counts[study.labels["findings"]] += 1
        answers = {turn.topic: turn for turn in study.turns}
        assert study.labels["modality"] == "DX"
        assert (study.labels["finding"] == "1") == (plan.finding is not None)
        assert ("findings" in answers) == (plan.finding is not None)
        if "side" in answers:
            assert study.labels["side"] == plan.side.value
            assert answers["side"].answer.lower() in answers["report"].answer.lower()
        for turn in study.turns:
            assert (turn.task is Task.CLOSED) == bool(turn.options)
            assert not turn.options or turn.answer in turn.options
        if plan.finding is not None:
            assert answers["findings"].answer in answers["report"].answer
        assert 1 <= len(study.images) <= 3
    assert set(counts) == {"No Finding", *(kind.value for kind in ChestFinding)}


def test_the_source_yields_the_modality_that_is_asked_for():
    refs = [study.labels["findings"] for study in PhantomSource(CONFIG).iter_studies()]
    assert len(refs) == 6
    ultrasound = PhantomConfig(image_size=96)
    plain = draw_study(ultrasound, 2, 0)
    expected = build_study(ultrasound, plan_study(ultrasound, 2))
    assert plain.labels == expected.labels
