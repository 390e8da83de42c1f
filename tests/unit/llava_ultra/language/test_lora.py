import pytest
import torch

from llava_ultra.config import LoraSettings
from llava_ultra.language.chat import (
    encode_text,
)
from llava_ultra.language.lora import add_lora
from llava_ultra.testing import TEXTS, tiny_config, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
TOKENIZER = LANGUAGE.tokenizer


def test_lora_trains_only_the_adapters():
    model = add_lora(tiny_language(CONFIG).model, CONFIG.lora)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".lora_" in name for name in trainable)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_adapters_merge_and_unmerge_without_a_trace(variant):
    settings = LoraSettings(rank=4, alpha=8, variant=variant)
    base = tiny_language(CONFIG).model
    ids = torch.tensor([encode_text(TOKENIZER, TEXTS[4])])
    with torch.no_grad():
        plain = base(ids).logits
        model = add_lora(base, settings)
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted = model(ids).logits
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        before = layer.weight.clone()
        model.merge_adapter()
        merged, change = model(ids).logits, layer.weight - before
        model.unmerge_adapter()
        unmerged = model(ids).logits
    assert (adapted - plain).abs().max() > 1e-2
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert torch.allclose(unmerged, adapted, atol=1e-4)
    assert torch.allclose(layer.weight, before, atol=1e-5)
    scale = {"lora": 8 / 4, "rslora": 8 / 4**0.5, "dora": 8 / 4}[variant]
    product = scale * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    if variant == "dora":  # m * (W + BA) / |W + BA|, row by row
        direction = before + product
        magnitude = layer.lora_magnitude_vector["default"].weight
        wanted = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
        product = wanted - before
    assert torch.allclose(change, product, atol=1e-5)


def test_excluded_modules_get_no_adapter():
    settings = LoraSettings(exclude_modules=("mlp.up_proj",))
    names = [name for name, _ in add_lora(tiny_language(CONFIG).model, settings).named_modules()]
    adapted = {name.split(".")[-2] for name in names if name.endswith(".lora_A")}
    assert adapted == set(settings.target_modules) - {"up_proj"}


@pytest.mark.parametrize("name", ["layers.0", "model.layers.0", "0"])
def test_what_is_below_an_excluded_module_gets_no_adapter_either(name):
    model = add_lora(tiny_language(CONFIG).model, LoraSettings(exclude_modules=(name,)))
    names = [path for path, _ in model.named_modules() if path.endswith(".lora_A")]
    assert names
    assert all(".layers.1." in path for path in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ("nothing",)}, r"\['nothing'\] match nothing"),
        ({"target_modules": ("q_proj", "c_attn")}, r"\['c_attn'\] match nothing"),
        ({"target_modules": ("input_layernorm",)}, "layers.0.input_layernorm', which is no linear"),
        ({"target_modules": ("q_proj", "embed_tokens")}, "embed_tokens', which is no linear layer"),
        ({"target_modules": ("lm_head",)}, "lm_head', which is no linear layer"),
        ({"target_modules": ("q_proj",), "exclude_modules": ("q_proj",)}, "cannot be adapted"),
        ({"exclude_modules": ("mlp", "vision_tower")}, r"\['vision_tower'\] spare no layer"),
        ({"target_modules": ("q_proj",), "exclude_modules": ("mlp",)}, r"\['mlp'\] spare no layer"),
    ],
)
def test_lora_targets_that_cannot_be_are_refused_with_the_layers_that_can(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        add_lora(tiny_language(CONFIG).model, LoraSettings(**settings))
    assert "model are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
