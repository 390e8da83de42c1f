from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from llava_ultra.batch import TextBatch, VisualBatch
from llava_ultra.config import (
    AdaptiveSampling,
    ClipConfig,
    FirstSampling,
    KeepAllSampling,
    LanguageConfig,
    ModelConfig,
    RandomSampling,
    images_kept,
)
from llava_ultra.cost.counting import FusedAttention, LiveBytes
from llava_ultra.cost.parts import build_parts, part_sizes
from llava_ultra.cost.trace import Load, trace_encoder, trace_prefill, trace_training
from llava_ultra.language.chat import IGNORED
from llava_ultra.language.decoder import save_language
from llava_ultra.model import CONNECTOR_PARTS
from llava_ultra.parameters.products import DTYPES
from llava_ultra.recognition.pairs import Pairs, TextTokens
from llava_ultra.testing import tiny_config, tiny_language, tiny_model, tiny_towers
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.lowered import lower_tower

LOAD = Load(studies=3, images=4, questions=1, text_tokens=20)


@pytest.fixture(scope="module")
def built():
    """A really built tiny model, and its configuration with the tokenizer's true vocabulary."""
    config = tiny_config(AdaptiveSampling(num_selected=2))
    language = tiny_language(config)
    language_config = config.language.model_copy(update={"vocab_size": len(language.tokenizer)})
    config = config.model_copy(update={"language": language_config})
    towers = tiny_towers(config, language)
    base_size = size(language.model)
    model = let_learn(tiny_model(config, language))
    return config, towers, model, base_size


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def let_learn(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[0] in CONNECTOR_PARTS or ".lora_" in name
    return model


def described(config, precision="float32"):
    parts = build_parts(config, precision=precision, tower_precision=precision)
    let_learn(parts.model)
    return parts


def batch(config, load=LOAD):
    """Real features and equally long texts."""
    torch.manual_seed(0)
    rows = load.studies * load.questions
    shape = (load.studies, load.images, config.num_tokens)
    visual = VisualBatch(
        clip=torch.randn(*shape, config.clip.width),
        sam=torch.randn(*shape, config.sam_channels),
        image_mask=torch.ones(load.studies, load.images, dtype=torch.bool),
    )
    ids = torch.randint(3, 200, (rows, load.text_tokens))
    labels = ids.clone()
    labels[:, :2] = IGNORED
    return visual, TextBatch(
        ids=ids,
        labels=labels,
        mask=torch.ones_like(ids, dtype=torch.bool),
        study_index=torch.arange(load.studies).repeat_interleave(load.questions),
    )


def test_every_part_is_as_large_as_when_it_is_really_built(built):
    config, (clip, sam), model, base_size = built
    sizes = {part.name: part for part in part_sizes(described(config))}
    lora = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    assert sizes["CLIP tower"].parameters == size(clip.clip.visual)
    assert sizes["CLIP text side"].parameters == size(clip) - size(clip.clip.visual)
    assert sizes["SAM tower"].parameters == size(sam)
    assert sizes["fusion"].parameters == size(model.fusion)
    assert sizes["sampler"].parameters == size(model.sampler)
    assert sizes["language model"].parameters == base_size
    assert sizes["LoRA"].parameters == lora
    assert size(model) == size(model.fusion) + size(model.sampler) + base_size + lora


def test_what_learns_is_counted_by_requires_grad(built):
    sizes = {part.name: part for part in part_sizes(described(built[0]))}
    for name in ("CLIP tower", "CLIP text side", "SAM tower", "language model"):
        assert sizes[name].trainable == 0
        assert sizes[name].frozen == sizes[name].parameters
    for name in ("fusion", "sampler", "LoRA"):
        assert sizes[name].trainable == sizes[name].parameters > 0


def test_nothing_has_a_value(built):
    parts = described(built[0])
    tensors = [
        tensor
        for part in (parts.clip, parts.sam, parts.model)
        for tensor in [*part.parameters(), *part.buffers()]
    ]
    assert len(tensors) > 50
    assert all(tensor.is_meta for tensor in tensors)


@pytest.mark.parametrize(("precision", "within"), [("float32", 0.02), ("bfloat16", 0.1)])
@pytest.mark.parametrize("index", [0, 1], ids=["clip", "sam"])
def test_a_towers_shape_flops_and_bytes_are_those_of_a_real_run(built, index, precision, within):
    config, towers, _, _ = built
    parts = described(config, precision)
    traced = trace_encoder((parts.clip, parts.sam)[index], 4)
    real = deepcopy(towers[index])
    lower_tower(real, DTYPES[precision])
    with torch.no_grad(), FlopCounterMode(display=False) as flops, LiveBytes(real) as memory:
        features = real(torch.zeros(4, 3, real.image_size, real.image_size))
    assert traced.features == tuple(features.shape) == (4, real.num_tokens, real.num_channels)
    assert traced.flops == flops.get_total_flops()
    assert traced.peak_bytes == pytest.approx(memory.peak, rel=within)


def test_a_training_steps_flops_are_those_of_a_real_step(built):
    config, _, model, _ = built
    traced = trace_training(described(config), LOAD)
    model.train()
    with FlopCounterMode(display=False) as flops:
        loss = model(*batch(config)).loss
        forward = flops.get_total_flops()
        loss.backward()
    backward = flops.get_total_flops() - forward
    assert traced.connector_forward + traced.language_forward == pytest.approx(forward, rel=0.01)
    assert traced.connector_backward + traced.language_backward == pytest.approx(backward, rel=0.01)


def test_a_training_steps_bytes_are_those_of_a_real_step(built):
    config, _, model, _ = built
    load = Load(studies=4, images=6, questions=1, text_tokens=150)
    model.train().zero_grad()
    with LiveBytes(model) as memory:
        model(*batch(config, load)).loss.backward()
    traced = trace_training(described(config), load)
    assert traced.peak_bytes == pytest.approx(memory.peak, rel=0.1)


@pytest.mark.parametrize("rule", ["straight_through", "weighted"])
def test_the_decoders_flops_follow_from_its_shape(rule):
    """Two FLOPs per weight and token; backward as much again for the input, twice for adapters.

    Logits are computed in front of each text token but the first two.
    """
    config = tiny_config(AdaptiveSampling(num_selected=3, training_rule=rule))
    traced = trace_training(described(config), LOAD)
    read = 3 if rule == "straight_through" else 1
    length = read * config.num_tokens + LOAD.text_tokens
    frozen, adapters, logits = decoder_sizes(config)
    attention = config.language.num_layers * 4 * length**2 * config.language.hidden_size
    forward = 2 * length * (frozen + adapters) + attention + logits
    backward = 2 * length * (frozen + 2 * adapters) + attention * 5 / 2 + logits
    assert traced.language_forward == pytest.approx(LOAD.studies * forward, rel=0.01)
    assert traced.language_backward == pytest.approx(LOAD.studies * backward, rel=0.01)


def decoder_sizes(config):
    """Weights, those of adapters, and FLOPs of a question's logits."""
    language, rank = config.language, config.lora.rank
    width, inner = language.hidden_size, language.intermediate_size
    frozen = language.num_layers * (4 * width**2 + 3 * width * inner)
    adapters = language.num_layers * rank * (4 * 2 * width + 3 * (width + inner))
    return frozen, adapters, 2 * (LOAD.text_tokens - 2) * width * language.vocab_size


def test_shared_images_spare_the_decoder_what_follows_from_its_shape():
    """Three questions of a study: the images once, the texts behind them, each seeing both."""
    config = tiny_config(FirstSampling(num_selected=3))
    load = replace(LOAD, questions=3)
    traced = trace_training(described(config), load)
    language, rank = config.language, config.lora.rank
    width, inner = language.hidden_size, language.intermediate_size
    frozen, adapters, logits = decoder_sizes(config)
    prefix, text = 3 * config.num_tokens + 1, load.text_tokens - 1
    length = prefix + 3 * text
    attention = language.num_layers * 4 * (prefix**2 + 3 * text * (prefix + text)) * width
    forward = 2 * length * (frozen + adapters) + attention + 3 * logits
    # of the last layer, prefixes give keys and values alone
    unused = 2 * width**2 + 3 * width * inner
    idle = rank * (2 * 2 * width + 3 * (width + inner))
    spared = 2 * prefix * (unused + 2 * idle) + 4 * prefix**2 * width * 5 / 2
    backward = 2 * length * (frozen + 2 * adapters) + attention * 5 / 2 + 3 * logits - spared
    assert traced.language_forward == pytest.approx(load.studies * forward, rel=0.01)
    assert traced.language_backward == pytest.approx(load.studies * backward, rel=0.02)


def test_questions_of_a_study_read_its_images_once():
    """A second question costs as much with three images as with one, but for its attention."""
    more = []
    for images in (1, 3):
        parts = described(tiny_config(FirstSampling(num_selected=images)))
        costs = [trace_training(parts, replace(LOAD, questions=count)) for count in (1, 2)]
        more.append(costs[1].language_forward - costs[0].language_forward)
    assert more[0] <= more[1] < 1.05 * more[0]


def test_a_vision_transformers_flops_follow_from_its_shape():
    """ViT-L/14 at 448 px up to its penultimate block: 12 C^2 weights a block, and attention."""
    config = ClipConfig(
        image_size=448,
        patch_size=14,
        width=1024,
        layers=24,
        head_width=64,
        pool="tok",
        text_width=128,
    )
    with torch.device("meta"):
        tower = ClipTower(config, vocab_size=400, end_id=2, pad_id=0).eval()
    tokens, width = 32**2 + 1, 1024  # and the class token
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    patches = 2 * 32**2 * 3 * 14**2 * width
    traced = trace_encoder(tower, 1)
    assert traced.flops == pytest.approx(23 * block + patches, rel=0.01)
    assert traced.features == (1, 1024, 1024)


def test_the_cache_holds_keys_and_values_of_every_layer(built):
    config = built[0]
    traced = trace_prefill(described(config), LOAD)
    language = config.language
    assert traced.tokens == 2 * config.num_tokens + LOAD.text_tokens
    assert traced.cache_bytes == (
        2 * language.num_layers * traced.tokens * language.hidden_size * 4
    )
    assert traced.peak_bytes > traced.cache_bytes


def test_half_precision_halves_what_is_frozen(built):
    full, half = described(built[0]), described(built[0], "bfloat16")
    for tower in (half.clip, half.sam):
        products = [module for module in tower.modules() if isinstance(module, nn.Linear)]
        assert products
        assert {module.weight.dtype for module in products} == {torch.bfloat16}
    for name, parameter in half.model.named_parameters():
        assert parameter.dtype is (torch.float32 if parameter.requires_grad else torch.bfloat16)
        assert name
    assert trace_prefill(full, LOAD).cache_bytes == 2 * trace_prefill(half, LOAD).cache_bytes
    assert trace_training(half, LOAD).peak_bytes < trace_training(full, LOAD).peak_bytes


@pytest.mark.parametrize("sampling", [KeepAllSampling(), RandomSampling(num_selected=3)])
def test_every_sampler_can_be_traced(sampling):
    config = tiny_config(sampling)
    parts = described(config)
    read = images_kept(sampling, LOAD.images)
    assert read == (4 if isinstance(sampling, KeepAllSampling) else 3)
    assert trace_training(parts, LOAD).connector_backward > 0
    assert trace_prefill(parts, LOAD).tokens == read * config.num_tokens + LOAD.text_tokens


def test_a_study_with_few_images_gives_all_of_them():
    assert images_kept(AdaptiveSampling(num_selected=3), 2) == 2


def test_live_bytes_are_those_alive_at_once_with_views_counted_once():
    given = torch.nn.Linear(10, 10, device="meta")
    with LiveBytes(given) as memory:
        first = torch.empty(1000, device="meta")
        view = first.view(10, 100)[2:]
        second = view * 2  # 800 values
        del first, view
        third = given.weight.t()  # a view of what was there before
        assert memory.live == second.nbytes == 3200
        del second
    assert third.is_meta
    assert (memory.live, memory.peak) == (0, 7200)


def test_a_decoder_from_a_folder_has_the_size_of_its_weights(tmp_path, built):
    config = built[0]
    language = tiny_language(tiny_config())
    save_language(language, tmp_path)
    source = ModelConfig(
        **{**dict(config), "language": LanguageConfig(source=str(tmp_path), context_length=256)}
    )
    sizes = {part.name: part for part in part_sizes(build_parts(source))}
    assert sizes["language model"].parameters == size(language.model)


def test_a_decoder_that_is_not_there_is_one_line(built):
    source = built[0].model_copy(update={"language": LanguageConfig(source="no/such/folder")})
    with pytest.raises(ValueError, match="'no/such/folder' cannot be read") as caught:
        build_parts(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("others", [(), ({"type": "answer"},)])
def test_recognition_is_counted_as_it_runs(others):
    objectives = [*others, {"type": "recognition"}]
    plain = tiny_config(AdaptiveSampling(num_selected=2)).model_dump()
    config = ModelConfig.model_validate({**plain, "objectives": objectives})
    parts = described(config)
    step = trace_training(parts, LOAD)
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    visual, text = batch(config)
    pairs = Pairs(
        prompt=(1,) * LOAD.text_tokens,
        images_at=1,
        reports=TextTokens(ids=text.ids, mask=text.mask),
        keys=torch.arange(LOAD.studies),
        labels=None,
        bank=None,
    )
    with FlopCounterMode(display=False) as flops:
        model(visual, text, None, pairs)
    counted = step.connector_forward + step.language_forward
    assert counted == pytest.approx(flops.get_total_flops(), rel=0.05)
    assert step.connector_backward + step.language_backward > counted


def test_attention_is_torchs_own_again_afterwards():
    plain = functional.scaled_dot_product_attention
    with FusedAttention():
        assert functional.scaled_dot_product_attention is not plain
    with pytest.raises(RuntimeError), FusedAttention():
        raise RuntimeError
    assert functional.scaled_dot_product_attention is plain
