"""The actor on a tiny model: the question as it is judged elsewhere, exemplars that are read."""

import json

import numpy as np
import pytest

from llava_ultra.config import AdaptiveSampling
from llava_ultra.testing import enliven, tiny_config, tiny_language, tiny_model
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
from sonoray_jobs.evaluation.opinion.prompts import Prompt, to_row, wording
from sonoray_jobs.evaluation.opinion.true_or_false import OpinionActor
from sonoray_jobs.road.config import EvaluateConfig
from sonoray_jobs.towers.feature_source import FeatureSource

OPTIONS = ("良性", "恶性")
QUESTION = "良恶性？"


def study_of(number, count=2, question=QUESTION):
    turn = Turn(
        question=question, answer="恶性", task=Task.CLOSED, options=OPTIONS, topic="pathology"
    )
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="test", dataset="d",
        images=tuple(
            StudyImage(image_id=f"{number}-{place}", uri="", width=8, height=8)
            for place in range(count)
        ),
        turns=(turn,),
    )  # fmt: skip


STUDIES = [study_of(number, count) for number, count in enumerate((3, 1, 5))]


def load():
    config = tiny_config(AdaptiveSampling(num_selected=2))
    language = tiny_language(config)
    enliven(language.model)
    return tiny_model(config, language), language


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    stores = {}
    for seed, tower in enumerate(("clip", "sam")):
        store = FeatureStore(folder, tower, num_tokens=4, num_channels=32)
        ids = [image.image_id for study in STUDIES for image in study.images]
        store.write(ids, np.random.default_rng(seed).standard_normal((len(ids), *store.shape)))
        stores[tower] = store
    return FeatureSource(dataset=folder, stores=stores)


@pytest.fixture(scope="module")
def actor(features):
    return OpinionActor(load, EvaluateConfig(), features, "cpu")


def ask(actor, prompts, study=STUDIES[0]):
    found = actor({"asked": [to_row(study, "pathology", prompts)["asked"]]})
    return json.loads(found["scores"][0])


def test_the_question_alone_is_judged_as_an_evaluation_judges_it(actor, features):
    judge = AnswerActor(load, EvaluateConfig(), features, "cpu", answers_freely=False)
    rows = judge({"study": [row["study"] for row in pack_studies(STUDIES)]})
    batch = {"asked": [to_row(each, "pathology", [Prompt(way="options")])["asked"]
                       for each in STUDIES]}  # fmt: skip
    found = actor(batch)
    assert found["study_id"] == list(rows["study_id"])
    for scores, wanted in zip(found["scores"], rows["option_scores"], strict=True):
        assert json.loads(scores)[0] == pytest.approx(json.loads(wanted), abs=1e-4)


def test_exemplars_are_read_and_their_order_counts(actor):
    def prompt(*others):
        return Prompt(way="exemplars", option="恶性", exemplars=others)

    right, wrong = STUDIES[1], STUDIES[2]
    prompts = [
        prompt(right, wrong),
        prompt(wrong, right),
        Prompt(way="statement", option="恶性"),
        prompt(right, wrong),
    ]
    first, swapped, alone, again = (each["恶性"] for each in ask(actor, prompts))
    assert first == pytest.approx(again, abs=1e-5)
    assert abs(first - swapped) > 1e-3
    assert abs(first - alone) > 1e-3
    # one study's prompts do not depend on who else is asked
    assert ask(actor, prompts[:1])[0]["恶性"] == pytest.approx(first, abs=1e-4)


def test_a_prompt_that_is_too_long_has_no_score(actor):
    study = study_of(0, 3, question="这个病灶是什么性质的？" * 8)
    prompts = [
        Prompt(way="exemplars", option="恶性", exemplars=(STUDIES[1], STUDIES[2])),
        Prompt(way="options"),
    ]
    told = ask(actor, prompts, study)
    assert told[0] == {}
    assert set(told[1]) == set(OPTIONS)


CHINESE = (
    "第一张图像：良恶性？答案是恶性，对吗？",
    "是",
    "第二张图像：答案是恶性，对吗？",
    "不是",
    "第三张图像：答案是恶性，对吗？",
)
ENGLISH = (
    "Image 1: Benign? Is the answer 恶性?",
    "yes",
    "Image 2: Is the answer 恶性?",
    "no",
    "Image 3: Is the answer 恶性?",
)


@pytest.mark.parametrize(("question", "expected"), [(QUESTION, CHINESE), ("Benign?", ENGLISH)])
def test_the_conversation_has_the_language_of_the_question(question, expected):
    prompt = Prompt(way="exemplars", option="恶性", exemplars=(STUDIES[1], STUDIES[2]))
    assert wording(question, prompt) == expected
    assert wording(question, Prompt(way="options")) == (question,)
