"""A probe learns classes from labels, and knows nothing of one without any."""

import numpy as np
import pytest

from llava_ultra.batch import StudyFeatures
from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.evaluation.recognition import study_probe

BANK = ClassBank(
    label="kind",
    classes=tuple(BankClass(name=name) for name in ("cyst", "nodule", "cancer")),
)


class Reader:
    """Features that show a study's kind in one channel of one place of one image."""

    def __init__(self, source):
        self.kinds = source

    def read_studies(self, studies):
        generator = np.random.default_rng(0)
        found = []
        for images in studies:
            clip, sam = (generator.normal(size=(len(images), 4, 3)) for _ in range(2))
            clip[-1, 2, 0] += 20 * (self.kinds[images[0].image_id] == "nodule")
            found.append(StudyFeatures(clip=clip, sam=sam))
        return found


def study(number, kind):
    images = tuple(
        StudyImage(image_id=f"{number}", uri="", width=8, height=8) for _ in range(1 + number % 3)
    )
    return Study(
        study_id=str(number),
        patient_key=str(number),
        split="train",
        dataset="d",
        images=images,
        turns=(),
        labels={"kind": kind},
    )


def test_a_probe_tells_classes_that_it_learned_and_no_others(monkeypatch):
    kinds = ["cyst", "nodule"] * 20
    learned = [study(number, kind) for number, kind in enumerate(kinds)]
    tested = [study(100 + n, kind) for n, kind in enumerate(["nodule", "cyst", "cancer"] * 4)]
    source = {each.images[0].image_id: each.labels["kind"] for each in (*learned, *tested)}
    monkeypatch.setattr(study_probe, "FeatureReader", Reader)
    scores = study_probe.probe_classes(learned, tested, BANK, source)
    is_nodule = np.array([each.labels["kind"] == "nodule" for each in tested])
    assert scores[is_nodule, 1].min() > scores[~is_nodule, 1].max() + 0.3
    assert scores[:, 0] == pytest.approx(1 - scores[:, 1])
    assert not scores[:, 2].any()


def test_a_study_is_the_mean_and_the_most_of_its_tokens_of_both_towers():
    generator = np.random.default_rng(1)
    features = [
        StudyFeatures(clip=generator.normal(size=(k, 4, 3)), sam=generator.normal(size=(k, 4, 2)))
        for k in (1, 3)
    ]

    class Given:
        def read_studies(self, studies):
            return features

    rows = study_probe.pool_studies([study(0, "cyst"), study(2, "cyst")], Given())
    for row, each in zip(rows, features, strict=True):
        flat = [tower.reshape(-1, tower.shape[-1]) for tower in (each.clip, each.sam)]
        expected = [value for tower in flat for value in (tower.mean(axis=0), tower.max(axis=0))]
        assert row == pytest.approx(np.concatenate(expected), rel=1e-5)
