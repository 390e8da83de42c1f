"""Models over a mix of towers: every fusion with every sampler and objective, saved and served."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.batch import Batch, StudyFeatures, collate_features
from llava_ultra.config import (
    AdaptiveSampling,
    AppendFusion,
    BlendFusion,
    ConcatFusion,
    FirstSampling,
    KeepAllSampling,
    LayerMergeFusion,
    ModelConfig,
    RandomSampling,
)
from llava_ultra.export.assistant import load_assistant
from llava_ultra.export.encoder import load_encoder
from llava_ultra.export.hosted import check_shared
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.testing import (
    tiny_artifact,
    tiny_batch,
    tiny_image,
    tiny_language,
    tiny_mix,
    tiny_model,
)
from llava_ultra.towers.tower import encode_images

LANGUAGE = tiny_language(tiny_mix())
FUSIONS = (ConcatFusion, AppendFusion, LayerMergeFusion)
names = st.lists(st.sampled_from(["clip", "sam", "fine", "vit"]), unique=True, max_size=4)
samplings = st.sampled_from(
    [
        AdaptiveSampling(num_selected=2),
        AdaptiveSampling(training_rule="weighted"),
        KeepAllSampling(),
        FirstSampling(num_selected=2),
        RandomSampling(),
    ]
)


@settings(max_examples=12)
@given(kind=st.sampled_from(FUSIONS), towers=names, sampling=samplings, laver=st.booleans())
def test_every_mix_composes_with_every_sampler_and_objective(kind, towers, sampling, laver):
    base = tiny_mix(kind(towers=tuple(towers)))
    added = (*base.objectives, LaverObjective()) if laver else base.objectives
    config = base.model_copy(update={"sampling": sampling, "objectives": added})
    torch.manual_seed(0)
    model = tiny_model(config, tiny_language(config)).train()
    visual, text = tiny_batch(config, LANGUAGE.tokenizer)
    given_features = {"clip": visual.clip, "sam": visual.sam, **visual.more}
    for each in given_features.values():
        each.requires_grad_()
    assert model.fuse_studies(visual).shape == (3, 3, config.num_tokens, 32)
    output = model(visual, text)
    output.loss.backward()
    assert output.loss.isfinite()
    assert set(output.losses) >= {"answer_loss"}
    for name, each in given_features.items():
        reached = each.grad is not None and bool(each.grad.any())
        assert reached == (name in config.read_towers), name
        assert each.grad is None or not each.grad[~visual.image_mask].any()


def test_features_of_all_towers_are_batched_moved_and_made_noisy_alike():
    generator = np.random.default_rng(0)
    shapes = tiny_mix().tower_shapes

    def study(count):
        return StudyFeatures.of_towers(
            {name: generator.standard_normal((count, *shape)) for name, shape in shapes.items()}
        )

    studies = [study(2), study(3)]
    batch = collate_features(studies)
    for name, values in studies[0].towers.items():
        found = {"clip": batch.clip, "sam": batch.sam, **batch.more}[name]
        assert np.allclose(found[0, :2], values, atol=1e-6)
        assert not found[0, 2].any()
    noisy = batch.with_noise(0.5, [1, 2])
    assert not torch.equal(noisy.more["vit"][:, :2], batch.more["vit"][:, :2])
    assert not noisy.more["vit"][0, 2].any()
    text = tiny_batch(tiny_mix(), LANGUAGE.tokenizer)[1]
    part = Batch(visual=batch, text=text.select([0, 1])).of_studies([0])
    assert torch.equal(part.visual.more["fine"], batch.more["fine"][:1, :2])
    short = StudyFeatures.of_towers({**studies[0].towers, "vit": studies[0].more["vit"][:1]})
    with pytest.raises(ValueError, match="study 1 of the batch has 2 CLIP and 1 vit features"):
        collate_features([studies[1], short])


@pytest.mark.parametrize("fusion", [AppendFusion(), LayerMergeFusion(towers=("vit", "clip"))])
def test_an_exported_mix_is_loaded_whole_and_serves_what_training_computed(fusion, tmp_path):
    config = tiny_mix(fusion)
    manifest = tiny_artifact(tmp_path / "model", config=config, with_student=True)
    assert {"clip", "sam", "fine", "vit"} <= manifest["digests"].keys()
    assert ModelConfig.model_validate(manifest["config"]) == config
    encoder, assistant = load_encoder(tmp_path / "model"), load_assistant(tmp_path / "model")
    images = [tiny_image(1), tiny_image(2)]
    found = encoder.fuse(images)
    assert found.tokens.shape == (2, config.num_tokens, 32)
    assert found.pooled.shape[1] == 2 * sum(shape[1] for shape in config.tower_shapes.values())
    features = {name: encode_images(tower, images, "cpu") for name, tower in encoder.towers.items()}
    with torch.no_grad():
        trained = assistant.model.fuse(features.pop("clip"), features.pop("sam"), features)
    assert torch.allclose(found.tokens, trained, atol=1e-6)
    other = {**manifest["digests"], "vit": "0" * 64}
    with pytest.raises(ValueError, match="has another vit than the first one of this service"):
        check_shared(tmp_path, other, manifest["digests"])
    without = {name: each for name, each in other.items() if name != "vit"}
    with pytest.raises(ValueError, match="has another vit than"):
        check_shared(tmp_path, without, manifest["digests"])
    weights = tmp_path / "model" / "vit" / "weights.safetensors"
    weights.write_bytes((tmp_path / "model" / "fine" / "weights.safetensors").read_bytes())
    with pytest.raises(ValueError, match="vit"):
        load_encoder(tmp_path / "model")


def test_a_fusion_of_two_leaves_further_towers_unread():
    config = tiny_mix(BlendFusion())
    assert config.read_towers == ("clip", "sam")
    assert config.num_tokens == 4
    visual, text = tiny_batch(config, LANGUAGE.tokenizer)
    assert tiny_model(config, tiny_language(config)).train()(visual, text).loss.isfinite()
