"""Every objective with every fusion and sampler, and the sum of them: found by the union's list."""

import itertools
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.config import (
    AdaptiveSampling,
    FirstSampling,
    FusionConfig,
    ModelConfig,
    ObjectiveConfig,
    SamplingConfig,
)
from llava_ultra.language.report_pairs import collate_pairs
from llava_ultra.model import trainable_parameters
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.distillation import DistillationObjective
from llava_ultra.objectives.grounding import GroundingObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.testing import tiny_config, tiny_language, tiny_model


def members(union):
    """The classes of a discriminated union."""
    return get_args(get_args(union)[0])


OBJECTIVES = members(ObjectiveConfig)
ROWS = [
    (0, "病灶是良性还是恶性?", "恶性"),
    (1, "检查的是哪个器官?", "甲状腺"),
    (0, "请描述", "左侧甲状腺见一低回声结节"),
    (2, "病灶?", "良性"),
]


def build(**changes):
    config = ModelConfig.model_validate({**tiny_config().model_dump(), **changes})
    language = tiny_language(config)
    return tiny_model(config, language).train(), language.tokenizer


def batch(tokenizer, channels=32):
    generator = torch.Generator().manual_seed(0)
    images = [
        StudyFeatures(
            clip=torch.randn(count, 4, channels, generator=generator).numpy(),
            sam=torch.randn(count, 4, 32, generator=generator).numpy(),
        )
        for count in (3, 2, 5)
    ]
    reports = [next(answer for at, _, answer in ROWS if at == study) for study in range(3)]
    pairs = collate_pairs(tokenizer, reports, RecognitionObjective(), context_length=100)
    text = collate_texts(tokenizer, ROWS, max_tokens=100)
    return collate_features(images), text, None, pairs  # as the model takes them


def gradients(model, *inputs):
    model.zero_grad()
    torch.manual_seed(0)
    output = model(*inputs)
    output.loss.backward()
    learned = trainable_parameters(model)
    return output, {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in learned.items()
    }


@pytest.mark.parametrize(
    ("fusion", "sampling"), [*itertools.product(members(FusionConfig), members(SamplingConfig))]
)
def test_every_objective_composes_with_every_fusion_and_sampler(fusion, sampling):
    layers = (0, 1) if fusion().type == "layer_merge" else ()
    clip = tiny_config().clip.model_copy(update={"feature_layers": layers})
    adaptive = sampling is AdaptiveSampling
    listed = [tuple(kind() for kind in OBJECTIVES), *((kind(),) for kind in OBJECTIVES)]
    for objectives in listed:
        changes = {
            "fusion": fusion().model_dump(),
            "sampling": sampling().model_dump(),
            "objectives": [objective.model_dump() for objective in objectives],
            "clip": clip.model_dump(),
        }
        expected = [each for each in objectives if adaptive or "scores" not in each.needs]
        if not expected:
            with pytest.raises(ValidationError, match="leave nothing to learn from"):
                build(**changes)
            continue
        model, tokenizer = build(**changes)
        inputs = batch(tokenizer, channels=model.config.clip.num_channels)
        output, found = gradients(model, *inputs)
        assert list(output.losses) == [f"{each.type}_loss" for each in expected]
        assert all(loss.isfinite() and not loss.requires_grad for loss in output.losses.values())
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert any(gradient.any() for gradient in found.values())


def test_the_default_loss_is_this_sum_to_the_bit():
    model, tokenizer = build()
    output, _ = gradients(model, *batch(tokenizer))
    losses = output.losses
    expected = losses["answer_loss"] + 1.0 * losses["distillation_loss"]
    expected = expected + 0.2 * losses["grounding_loss"]
    assert torch.equal(output.loss, expected)
    assert all(loss > 1e-4 for loss in losses.values())  # each of them counts in float32


def test_gradients_are_the_weighted_sum_of_each_objectives_own():
    weights = {
        "answer": 0.7,
        "distillation": 1.6,
        "grounding": 0.4,
        "recognition": 0.5,
        "laver": 0.9,
    }
    alone = {}
    for kind in OBJECTIVES:
        model, tokenizer = build(objectives=[kind(weight=1).model_dump()])
        alone[kind().type] = gradients(model, *batch(tokenizer))
    listed = [kind(weight=weights[kind().type]).model_dump() for kind in OBJECTIVES]
    model, tokenizer = build(objectives=listed)
    output, found = gradients(model, *batch(tokenizer))
    total = sum(weights[name] * single.loss.detach() for name, (single, _) in alone.items())
    assert float(output.loss.detach()) == pytest.approx(float(total), rel=1e-6)
    for name, gradient in found.items():
        expected = sum(
            weights[kind] * own.get(name, 0) for kind, (_, own) in alone.items()
        )  # heads are there where they are trained
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=name)
    for name, (_, own) in alone.items():
        assert any(gradient.abs().max() > 1e-4 for gradient in own.values()), name


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_that_is_off_costs_nothing_and_is_not_logged(kind):
    others = [other().model_dump() for other in OBJECTIVES if other is not kind]

    def step(objectives):
        model, tokenizer = build(objectives=objectives)
        inputs = batch(tokenizer)
        with FlopCounterMode(display=False) as flops:
            output, _ = gradients(model, *inputs)
        return flops.get_total_flops(), output

    absent, without = step(others)
    off, zeroed = step([*others, kind(weight=0).model_dump()])
    present, full = step([*others, kind().model_dump()])
    assert off == absent
    assert torch.equal(zeroed.loss, without.loss)
    name = f"{kind().type}_loss"
    assert name in full.losses
    assert name not in zeroed.losses
    if kind is not DistillationObjective:  # a few products of N x K numbers, no matrix
        assert present > absent


def test_without_an_objective_that_needs_answers_the_decoder_rests():
    model, tokenizer = build(objectives=[{"type": "grounding"}])
    calls = []
    model.language_model.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, *batch(tokenizer))
    assert not calls


def test_the_defaults_are_what_the_road_is_trained_for():
    assert tiny_config().objectives == (
        AnswerObjective(weight=1),
        DistillationObjective(weight=1, temperature=1),
        GroundingObjective(weight=0.2, temperature=0.1),
    )
    assert [each.type for each in tiny_config(FirstSampling()).active_objectives] == ["answer"]


def test_a_list_that_repeats_an_objective_is_refused():
    with pytest.raises(ValidationError, match="repeat a type"):
        build(objectives=[{"type": "answer"}, {"type": "answer", "weight": 2}])
