"""Sample answers of a validation, on a tiny model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.testing import tiny_config, tiny_language, tiny_model
from sonoray.study.sample_order import Plan
from sonoray.tracking import callback
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.step_loader import LoadedStep
from sonoray_jobs.training.steps import stage_loop
from sonoray_jobs.training.steps.train_step import Stepper
from sonoray_jobs.training.steps.validation import sample_answers

PATHOLOGY, ORGANS = ("良性", "恶性"), ("肝脏", "甲状腺", "乳腺")
ROWS = [
    (0, ("请描述超声所见。",), "甲状腺"),
    (0, ("病灶是良性还是恶性?",), "恶性"),
    (1, ("检查的是哪个器官?", "乳腺", "病灶是良性还是恶性?"), "良性"),
    (1, ("检查的是哪个器官?",), "乳腺"),
]
OPTIONS = [(), PATHOLOGY, PATHOLOGY, ORGANS]


@pytest.fixture(scope="module")
def stepper() -> Stepper:
    config = tiny_config()
    language = tiny_language(config)
    engine = SimpleNamespace(module=tiny_model(config, language).eval(), device=torch.device("cpu"))
    return Stepper(
        engine=engine,
        tokenizer=language.tokenizer,
        settings=TrainConfig(),
        stage=0,
        rank=0,
        world=1,
        context_length=256,
    )


def loaded(rows, options) -> LoadedStep:
    rng = np.random.default_rng(0)
    plan = Plan(num_studies=2, seed=0, studies_per_step=2, epochs=range(1), rank=0, num_ranks=1)
    features = [
        StudyFeatures(
            clip=rng.normal(size=(count, 4, 32)).astype(np.float32),
            sam=rng.normal(size=(count, 4, 32)).astype(np.float32),
        )
        for count in (2, 3)
    ]
    return LoadedStep(step=plan[0], features=features, rows=rows, options=options)


def test_the_answer_is_the_option_that_the_model_finds_likeliest(stepper):
    step = loaded(ROWS, OPTIONS)
    shown = sample_answers(stepper, step)
    assert [(row["study"], row["question"], row["truth"]) for row in shown] == [
        (1, "病灶是良性还是恶性?", "恶性"),
        (2, "病灶是良性还是恶性?", "良性"),
        (2, "检查的是哪个器官?", "乳腺"),
    ]
    model, visual = stepper.engine.module, collate_features(step.features)
    for row, (study, texts, _), options in zip(shown, ROWS[1:], OPTIONS[1:], strict=True):
        scores = []
        for option in options:  # each by itself
            text = collate_texts(stepper.tokenizer, [(study, texts, option)], max_tokens=256)
            with torch.no_grad():
                reading = model.read(model.fuse(visual.clip, visual.sam), visual.image_mask, text)
                scores.append(float(model.answer_log_probs(reading, text).sum()))
        shares = torch.tensor(scores).softmax(dim=0)
        assert row["answer"] == options[int(shares.argmax())]
        assert row["probability"] == pytest.approx(float(shares.max()), abs=2e-4)


def test_a_share_without_closed_questions_shows_nothing_and_still_calls_the_decoder(stepper):
    calls = []
    language = stepper.engine.module.language_model
    hook = language.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert sample_answers(stepper, loaded(ROWS[:1], OPTIONS[:1])) == []
    finally:
        hook.remove()
    assert calls


def test_workers_and_mlflow_call_the_answers_the_same():
    assert stage_loop.ANSWERS == callback.ANSWERS
