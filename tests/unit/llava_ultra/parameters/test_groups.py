import pytest
import torch
from torch import nn

from llava_ultra.config import (
    BlendFusion,
    LayerMergeFusion,
    LoraSettings,
    ModelConfig,
)
from llava_ultra.parameters.groups import decay_groups
from llava_ultra.pretrain.loop import optimise
from llava_ultra.pretrain.pretrain_config import ClipPretrainConfig
from llava_ultra.testing import tiny_config, tiny_language, tiny_model, tiny_towers


def build(**changes):
    config = ModelConfig.model_validate({**tiny_config().model_dump(), **changes})
    return tiny_model(config, tiny_language(config))


def names(model, group):
    chosen = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


@pytest.mark.parametrize("alpha", ["scalar", "channel", "token"])
def test_alpha_norms_and_biases_do_not_decay(alpha):
    model = build(fusion=BlendFusion(alpha=alpha), lora=LoraSettings(rank=4, variant="dora"))
    matrices, vectors = decay_groups(model, weight_decay=0.3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    plain = names(model, vectors)
    assert "fusion.alpha_logit" in plain
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    assert {name for name in norms if name.startswith(("fusion.", "sampler."))} <= plain
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in learned if name.endswith(".bias")} <= plain
    assert any("lora_magnitude_vector" in name for name in plain)
    assert {name for name in learned if "lora_A" in name or "lora_B" in name} <= names(
        model, matrices
    )
    assert names(model, matrices) | plain == learned
    assert not names(model, matrices) & plain


def test_the_shares_of_merged_layers_do_not_decay():
    clip = tiny_config().clip.model_copy(update={"feature_layers": (0, 1)})
    model = build(fusion=LayerMergeFusion(), clip=clip.model_dump())
    assert "fusion.merge_clip.weight_logits" in names(model, decay_groups(model, weight_decay=1)[1])


def test_a_frozen_parameter_and_an_empty_group_are_left_out():
    layer = nn.Linear(2, 3)
    layer.bias.requires_grad = False
    (group,) = decay_groups(layer, weight_decay=0.1)
    assert group["params"] == [layer.weight]


def test_pretraining_decays_matrices_alone():
    """A loss without gradient leaves decay as the only thing that moves a weight."""
    config = tiny_config()
    clip, _ = tiny_towers(config, tiny_language(config))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    settings = ClipPretrainConfig(steps=2, learning_rate=0.1, weight_decay=0.5, warmup_fraction=0)
    optimise(clip, settings, lambda: sum(0 * p.sum() for p in clip.parameters()), None)
    for name, parameter in clip.named_parameters():
        shrunk = not torch.equal(parameter, before[name])
        assert shrunk == (parameter.ndim >= 2 and bool(before[name].any())), name
