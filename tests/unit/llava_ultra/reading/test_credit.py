"""What a sampler learns does not depend on whether questions share the reading of their images."""

from functools import partial

import pytest
import torch

from llava_ultra.batch import Batch, StudyFeatures, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling
from llava_ultra.language.decoder import checkpoint_activations
from llava_ultra.model import LlavaUltra, trainable_parameters
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model

IMAGES = (4, 1, 3, 2)
QUESTIONS = (
    (0, "病灶?", 1),
    (0, "请描述", 4),
    (3, "?", 6),
    (0, "哪个器官?", 6),
    (2, "?", 2),
    (0, "?", 7),
)
SAMPLINGS = [
    AdaptiveSampling(),
    AdaptiveSampling(num_selected=2),
    AdaptiveSampling(balance=0.0),  # all questions of a study pick alike
    AdaptiveSampling(balance=0.0, num_selected=3),
]


def build(sampling, precision="float32"):
    config = tiny_config(sampling)
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    if precision != "float32":
        model = LlavaUltra(config, model.language_model, precision=precision).train()
        model.load_state_dict(tiny_model(config, tiny_language(config)).state_dict())
    generator = torch.Generator().manual_seed(3)
    images = [
        StudyFeatures(
            clip=torch.randn(count, 4, 32, generator=generator).numpy(),
            sam=torch.randn(count, 4, 32, generator=generator).numpy(),
        )
        for count in IMAGES
    ]
    rows = [(study, question, TEXTS[answer]) for study, question, answer in QUESTIONS]
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    return model, Batch(visual=collate_features(images), text=text)


def gradients(model):
    return {
        name: parameter.grad.clone()
        for name, parameter in trainable_parameters(model).items()
        if parameter.grad is not None
    }


def step(model, batch, *, packs, limits=None):
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        if not packs:  # a padded row for each question, whose images are its own
            patch.setattr("llava_ultra.model.shares_prefixes", lambda _: False)
        share = forward_share(model, batch, limits or PartLimits())
        share.owed.backward()
    return share.losses, gradients(model)


@pytest.mark.parametrize("limits", [PartLimits(), PartLimits(studies=2)], ids=["whole", "parts"])
@pytest.mark.parametrize("checkpoints", [False, True], ids=["kept", "anew"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_all_gradients_are_those_of_a_row_for_each_question(sampling, checkpoints, limits):
    model, batch = build(sampling)
    expected = step(model, batch, packs=False)
    if checkpoints:
        checkpoint_activations(model.language_model.get_base_model())
    found = step(model, batch, packs=True, limits=limits)
    assert {"answer_loss", "distillation_loss", "grounding_loss"} <= expected[0].keys()
    assert any(name.startswith("sampler.scores.query") for name in expected[1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_in_bfloat16_sharing_loses_no_more_than_bfloat16_does(sampling):
    """Beside float32, the gradients of the sampler are as near with shared readings as without."""
    exact = step(*build(sampling), packs=False)[1]
    apart, shared = (step(*build(sampling, "bfloat16"), packs=packs)[1] for packs in (False, True))
    errors = []
    for found in (apart, shared):
        assert {gradient.dtype for gradient in found.values()} == {torch.float32}
        of_sampler = [name for name in exact if name.startswith("sampler.")]
        joined = [
            torch.cat([each[name].flatten() for name in of_sampler]) for each in (found, exact)
        ]
        errors.append(float((joined[0] - joined[1]).norm() / joined[1].norm()))
    assert errors[1] < max(1.5 * errors[0], 0.02)


def test_each_question_has_a_pick_of_its_own_to_learn(monkeypatch):
    """Without it, the pick of the first question hears what all of them ask."""
    model, batch = build(AdaptiveSampling(balance=0.5))
    expected = step(model, batch, packs=False)[1]
    monkeypatch.setattr("llava_ultra.reading.answers.give_credit", lambda *_, **__: None)
    found = step(model, batch, packs=True)[1]
    differing = {
        name.split(".")[0]
        for name, gradient in expected.items()
        if not torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5)
    }
    assert "sampler" in differing
    assert "language_model" not in differing


@pytest.mark.parametrize(
    ("questions", "passes"), [((0,), 0), ((0, 0), 1), ((0, 1, 1, 1, 0, 2), 2)], ids=str
)
def test_questions_that_share_cost_a_backward_pass_each_but_the_first(
    questions, passes, monkeypatch
):
    model, batch = build(AdaptiveSampling(balance=0.0))
    language = tiny_language(model.config)
    rows = [(study, "?" * (1 + place), TEXTS[1]) for place, study in enumerate(questions)]
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: asked.append(1) or grad(*a, **k))
    model(batch.visual, text).loss.backward()
    assert len(asked) == passes


@pytest.mark.parametrize("learns", [True, False])
def test_nothing_is_kept_apart_where_no_pick_learns(learns, monkeypatch):
    model, batch = build(AdaptiveSampling(balance=0.0))
    asked = []
    monkeypatch.setattr("llava_ultra.reading.answers.give_credit", partial(note, asked))
    with torch.set_grad_enabled(learns):
        model(batch.visual, batch.text)
    assert len(asked) == learns


def note(asked, *_, **__):
    asked.append(1)
