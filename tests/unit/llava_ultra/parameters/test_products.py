import pytest
import torch
from torch import nn

from llava_ultra.config import LoraSettings
from llava_ultra.export.weights import adapter_state, connector_state
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters import products
from llava_ultra.parameters.precision_names import answer_precision
from llava_ultra.parameters.products import (
    RoundedLinear,
    check_precision,
    fix_products,
    round_products,
)
from llava_ultra.testing import tiny_batch, tiny_config, tiny_language

CONFIG = tiny_config()
BF16 = torch.bfloat16
EXPONENT = 2.0**-8
"""Largest distance of a number from its neighbour in bfloat16, by its size."""


def model_in(precision, variant="lora", seed=0):
    torch.manual_seed(seed)
    language = tiny_language(CONFIG)
    config = CONFIG.model_copy(update={"lora": LoraSettings(rank=4, alpha=8, variant=variant)})
    model = LlavaUltra(config, add_lora(language.model, config.lora), precision=precision)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
            parameter.requires_grad = ".lora_" in name or name.startswith(("fusion", "sampler"))
    return model.train(), language.tokenizer


def step(precision, variant="lora"):
    model, tokenizer = model_in(precision, variant)
    output = model(*tiny_batch(CONFIG, tokenizer))
    output.loss.backward()
    return model, output


def test_float32_leaves_every_layer_as_it_is():
    model, _ = model_in("float32")
    assert not any(isinstance(layer, RoundedLinear) for layer in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_what_is_frozen_is_rounded_and_what_learns_is_not(variant):
    model, output = step("bfloat16", variant)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else BF16), name
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32, name
            assert parameter.grad.isfinite().all(), name
    assert output.loss.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())


def test_activations_are_bfloat16_and_scores_float32():
    model, tokenizer = model_in("bfloat16")
    found = {}

    def note(name):
        def hook(layer, inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            found.setdefault(name, set()).add(value.dtype)

        return hook

    layer = model.language_model.base_model.model.model.layers[1]
    layer.register_forward_hook(note("decoder layer"))
    layer.self_attn.q_proj.lora_A["default"].register_forward_hook(note("adapter"))
    model.fusion.register_forward_hook(note("fused"))
    visual, text = tiny_batch(CONFIG, tokenizer)
    reading = model.read(model.fuse(visual.clip, visual.sam), visual.image_mask, text)
    model(visual, text)
    assert found == {"decoder layer": {BF16}, "adapter": {BF16}, "fused": {torch.float32}}
    assert reading.embeds.dtype == BF16
    assert reading.selection.probabilities.dtype == torch.float32


def test_the_losses_and_gradients_stay_near_those_of_float32():
    (full, wanted), (half, found) = step("float32"), step("bfloat16")
    for name, loss in wanted.losses.items():
        assert float(found.losses[name]) == pytest.approx(float(loss), rel=0.01), name
    for name, parameter in full.named_parameters():
        if parameter.grad is None or not parameter.grad.norm():
            continue
        other = dict(half.named_parameters())[name].grad
        cosine = torch.cosine_similarity(parameter.grad.flatten(), other.flatten(), dim=0)
        assert cosine > 0.95, name


def test_a_product_is_that_of_rounded_factors():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32), torch.randn(8, 64)
    rounded = RoundedLinear.of(linear, BF16)
    assert rounded.weight is linear.weight
    found = rounded(x)
    assert found.dtype == torch.float32
    factors = [x.bfloat16().float(), linear.weight.bfloat16().float()]
    exact = factors[0] @ factors[1].T + linear.bias.bfloat16().float()
    torch.testing.assert_close(found, exact, rtol=EXPONENT, atol=1e-2)
    assert not torch.equal(found, linear(x))


def test_only_layers_of_float32_are_replaced():
    module = nn.ModuleDict(
        {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4).to(BF16), "n": nn.LayerNorm(4)}
    )
    round_products(module, BF16)
    assert [type(layer) for layer in module.values()] == [RoundedLinear, nn.Linear, nn.LayerNorm]


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_the_served_form_computes_what_the_trained_form_did(variant):
    model, tokenizer = model_in("bfloat16", variant)
    model.eval()
    visual, text = tiny_batch(CONFIG, tokenizer)

    def answers():
        with torch.no_grad():
            tokens = model.fuse(visual.clip, visual.sam)
            reading = model.read(tokens, visual.image_mask, text)
            return tokens, model.answer_log_probs(reading, text)

    before = answers()
    kept = {name: value.clone() for name, value in adapter_state(model).items()}
    model.fix()
    for one, other in zip(before, answers(), strict=True):
        assert torch.equal(one, other)
    changed = {value.dtype for value in adapter_state(model).values()}
    assert changed == ({torch.float32} if variant == "dora" else {BF16})
    for name, value in adapter_state(model).items():
        torch.testing.assert_close(value.float(), kept[name], rtol=EXPONENT, atol=0)
    assert connector_state(model)["fusion.project_clip.0.weight"].dtype == torch.float32


def test_fixing_float32_changes_nothing():
    model, _ = model_in("float32")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fix_products(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "trained", "used"),
    [
        ("trained", "bfloat16", "bfloat16"),
        ("trained", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "float32", "bfloat16"),
    ],
)
def test_a_model_answers_as_it_was_trained_unless_told(asked, trained, used):
    assert answer_precision(asked, trained) == used


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(
        ValueError, match=r"train.precision 'bfloat16' .* Tesla T4 has 7\.5"
    ) as error:
        check_precision("bfloat16", "cuda", "train.precision")
    assert "set train.precision to float32" in str(error.value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    check_precision("bfloat16", "cuda", "train.precision")


def test_a_cpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(products, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"embed.precision 'bfloat16' needs a CPU with AVX-512"):
        check_precision("bfloat16", "cpu", "embed.precision")
    check_precision("float32", "cpu", "embed.precision")
