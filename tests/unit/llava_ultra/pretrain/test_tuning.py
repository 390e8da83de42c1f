"""Tuning of towers: parity with cached features, who learns, and that it does."""

import copy

import numpy as np
import pytest
import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.config import ClipOnlyFusion
from llava_ultra.pretrain.tune_config import TuneConfig, learning_towers
from llava_ultra.pretrain.tuning import TuneStep, encode_studies, tune_towers
from llava_ultra.testing import (
    TEXTS,
    tiny_config,
    tiny_further,
    tiny_image,
    tiny_language,
    tiny_mix,
    tiny_model,
    tiny_towers,
)
from llava_ultra.towers.tower import encode_images, fit_adopted

STUDIES = [
    [tiny_image(1), tiny_image(2, 64, 48), tiny_image(3)],
    [tiny_image(4)],
    [tiny_image(5), tiny_image(6, 30, 30)],
    [tiny_image(7)],
]
ANSWERS = (1, 2, 6, 8)


@pytest.fixture(params=["two towers", "a mix"])
def parts(request):
    config = tiny_config() if request.param == "two towers" else tiny_mix()
    return build(config)


def build(config):
    language = tiny_language(config)
    clip, sam = tiny_towers(config, language)
    towers = {"clip": clip, "sam": sam, **tiny_further(config)}
    for tower in towers.values():
        fit_adopted(tower, [image for images in STUDIES for image in images])
    model = tiny_model(config, language)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("fusion", "sampler")) or ".lora_" in name)
    return model, towers, language.tokenizer


def reader(tokenizer):
    def read(numbers):
        rows = [(place, TEXTS[0], TEXTS[ANSWERS[n]]) for place, n in enumerate(numbers)]
        text = collate_texts(tokenizer, rows, max_tokens=256)
        return TuneStep(studies=[STUDIES[number] for number in numbers], text=text)

    return read


def note(steps):
    return lambda *step: steps.append(step)


def states(modules):
    return {name: copy.deepcopy(module.state_dict()) for name, module in modules.items()}


def moved(before, module):
    return any(not torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_images_are_encoded_as_for_the_store(parts):
    model, towers, tokenizer = parts
    cached = collate_features(
        [
            StudyFeatures.of_towers(
                {
                    name: encode_images(tower, images, "cpu").numpy()
                    for name, tower in towers.items()
                }
            )
            for images in STUDIES
        ]
    )
    for at_once in (0, 2):
        found = encode_studies(towers, STUDIES, set(towers), images_at_once=at_once)
        assert torch.equal(found.image_mask, cached.image_mask)
        for name in towers:
            ours, theirs = (
                {"clip": each.clip, "sam": each.sam, **each.more}[name] for each in (found, cached)
            )
            assert ours.requires_grad
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    text = reader(tokenizer)(range(4)).text
    model.train()
    torch.manual_seed(0)
    first = model(cached, text).loss
    torch.manual_seed(0)
    second = model(encode_studies(towers, STUDIES, ()), text).loss
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_pieces_give_the_gradients_of_the_whole(parts):
    _, towers, _ = parts
    found = {}
    for at_once in (0, 1, 3):
        for tower in towers.values():
            tower.zero_grad()
        visual = encode_studies(towers, STUDIES, set(towers), images_at_once=at_once)
        sum((each**2).sum() for each in (visual.clip, visual.sam, *visual.more.values())).backward()
        found[at_once] = {
            f"{name}.{key}": value.grad.clone()
            for name, tower in towers.items()
            for key, value in tower.named_parameters()
            if value.grad is not None
        }
    assert {name.split(".")[0] for name in found[0]} == set(towers)
    for at_once in (1, 3):
        assert found[at_once].keys() == found[0].keys()
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[at_once][name], gradient, atol=1e-3, rtol=1e-3)


def test_towers_and_model_learn_the_answers_and_again_the_same(parts):
    config = TuneConfig(steps=30, batch_size=4, learning_rate=1e-2)
    runs = []
    for _ in range(2):
        model, towers, tokenizer = copy.deepcopy(parts)
        before, frozen = states(towers), states({"model": model})["model"]
        losses = tune_towers(model, towers, reader(tokenizer), 4, config, note(steps := []))
        assert [step for step, _, _ in steps] == list(range(1, 31))
        assert losses[-1] < losses[0] - 0.4  # a random decoder's head stays
        for name, tower in towers.items():
            assert moved(before[name], tower)
            assert torch.equal(before[name]["standardise.mean"], tower.standardise.mean)
            assert not any(each.requires_grad for each in tower.parameters())
        learned = dict(model.named_parameters())
        assert any(
            ".lora_" in key and not torch.equal(frozen[key], learned[key]) for key in learned
        )
        for key, value in learned.items():
            if not value.requires_grad:
                assert torch.equal(value, frozen[key]), key
        runs.append((losses, states(towers)))
    assert runs[0][0] == runs[1][0]
    for name, state in runs[0][1].items():
        assert all(torch.equal(value, runs[1][1][name][key]) for key, value in state.items())


def test_one_tower_learns_and_the_others_stay(parts):
    model, towers, tokenizer = parts
    before = states(towers)
    config = TuneConfig(steps=2, batch_size=2, learning_rate=1e-2, towers=("sam",))
    tune_towers(model, towers, reader(tokenizer), 4, config)
    assert [name for name, tower in towers.items() if moved(before[name], tower)] == ["sam"]


def test_what_the_fusion_does_not_read_cannot_learn():
    config = tiny_config().model_copy(update={"fusion": ClipOnlyFusion()})
    model, towers, tokenizer = build(config)
    assert learning_towers(model.config, TuneConfig()) == ("clip",)
    with pytest.raises(ValueError, match=r"tune\.towers sam are not read by.*'clip_only'.*clip"):
        learning_towers(model.config, TuneConfig(towers=("sam",)))
    with pytest.raises(ValueError, match=r"4 training studies are fewer than tune\.batch_size 5"):
        tune_towers(model, towers, reader(tokenizer), 4, TuneConfig(batch_size=5))
    before = states(towers)
    tune_towers(model, towers, reader(tokenizer), 4, TuneConfig(steps=1, batch_size=2))
    assert moved(before["clip"], towers["clip"])
    assert not moved(before["sam"], towers["sam"])


def test_a_loss_that_is_not_finite_ends_a_tuning():
    model, towers, tokenizer = build(tiny_config())
    with torch.no_grad():
        towers["clip"].clip.visual.conv1.weight.fill_(np.nan)
    config = TuneConfig(steps=1, batch_size=2)
    with pytest.raises(ValueError, match="loss is nan at step 0"):
        tune_towers(model, towers, reader(tokenizer), 4, config)
