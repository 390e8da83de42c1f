"""Vectors of studies that were kept give the scores of one pass, for any bank."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from llava_ultra.batch import StudyFeatures, collate_features
from llava_ultra.config import FirstSampling
from llava_ultra.decoding.class_scores import read_classes, score_classes
from llava_ultra.language.decoder import Language
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model
from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.evaluation.recognition import study_states
from sonoray_jobs.evaluation.recognition.class_scoring import Reading, score_here
from sonoray_jobs.evaluation.recognition.study_states import StateActor, StudyStates
from sonoray_jobs.road.config import EvaluateConfig, RecognizeConfig

BANKS = [
    ClassBank(
        classes=(
            BankClass(name="a", descriptions=(TEXTS[1], TEXTS[4])),
            BankClass(name="b", descriptions=(TEXTS[2],)),
        )
    ),
    ClassBank(classes=tuple(BankClass(name=text) for text in TEXTS[5:9])),
]


def studies():
    return [
        Study(
            study_id=f"s{number}",
            patient_key="p",
            split="test",
            dataset="d",
            images=tuple(
                StudyImage(image_id=f"{number}-{view}", uri="", width=8, height=8)
                for view in range(1 + number)
            ),
            turns=(),
            labels={},
        )
        for number in range(3)
    ]


def features(images):
    generator = np.random.default_rng(len(images))
    clip, sam = generator.standard_normal((2, len(images), 4, 32), dtype=np.float32)
    return StudyFeatures(clip=clip, sam=sam)


class Reader:
    def __init__(self, source):
        del source

    def read_studies(self, listed):
        return [features(images) for images in listed]


def load(anchors="embeddings"):
    config = tiny_config(FirstSampling()).model_copy(
        update={"objectives": (RecognitionObjective(bank="b", anchors=anchors),)}
    )
    language = tiny_language(config)
    model = tiny_model(config, language)
    return model, Language(tokenizer=language.tokenizer, model=language.model)


@pytest.fixture
def states(monkeypatch, tmp_path):
    monkeypatch.setattr(study_states, "FeatureReader", Reader)
    actor = StateActor(load, EvaluateConfig(), None, "cpu")
    rows = actor({"study": [json.dumps(study.to_row()) for study in studies()]})
    found = StudyStates(
        study_ids=tuple(rows["study_id"]),
        globals_=np.stack([np.frombuffer(each, np.float32) for each in rows["globals"]]),
        locals_=np.stack([np.frombuffer(each, np.float32) for each in rows["locals"]]),
    )
    found.write(tmp_path)
    return StudyStates.read(tmp_path)


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("against", ["descriptions", "prompts", "embeddings"])
def test_scores_are_those_of_one_pass(states, bank, against):
    settings = RecognizeConfig(against=against)
    found = score_here(load, Reading(bank=bank, settings=settings), [states], "cpu")
    model, language = load()
    model.fix()
    visual = collate_features([features(study.images) for study in studies()])
    keys = [study.study_id for study in studies()]
    with torch.no_grad():
        classes = read_classes(model, language.tokenizer, bank, against=against)
        tokens = model.fuse_studies(visual)
        expected = score_classes(
            model, language.tokenizer, classes, tokens, visual.image_mask, keys
        )
    assert list(found) == keys
    for key, row in zip(keys, expected.tolist(), strict=True):
        assert found[key] == pytest.approx(row, abs=1e-5)
    assert len({tuple(row) for row in found.values()}) == 3


@pytest.mark.parametrize(
    ("anchors", "against"), [("embeddings", "embeddings"), ("decoder", "descriptions")]
)
def test_described_classes_are_read_as_the_training_learned_them(states, anchors, against):
    shares = [
        score_here(
            partial(load, anchors),
            Reading(bank=BANKS[0], settings=RecognizeConfig(against=each)),
            [states],
            "cpu",
        )
        for each in ("trained", against, "prompts")
    ]
    assert shares[0] == shares[1]
    assert shares[0] != shares[2]


def test_names_alone_are_read_by_the_decoder(states):
    [first, *rest] = BANKS[0].classes
    bank = BANKS[0].model_copy(
        update={"classes": (first.model_copy(update={"descriptions": ()}), *rest)}
    )
    shares = [
        score_here(
            load, Reading(bank=bank, settings=RecognizeConfig(against=each)), [states], "cpu"
        )
        for each in ("trained", "descriptions", "embeddings")
    ]
    assert shares[0] == shares[1]
    assert shares[0] != shares[2]


def test_vectors_come_back_from_their_file(states):
    assert states.study_ids == ("s0", "s1", "s2")
    lengths = np.linalg.norm(states.globals_, axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert states.globals_.dtype == states.locals_.dtype == np.float32
    assert not np.allclose(states.globals_, states.locals_)
