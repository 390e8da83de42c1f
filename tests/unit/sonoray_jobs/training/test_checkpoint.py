"""Checkpoints without workers: what is written of each kind of adapter comes back."""

import pytest
import torch

from llava_ultra.config import ModelConfig
from llava_ultra.model import kept_buffers, trainable_parameters
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.testing import tiny_config, tiny_language, tiny_model
from sonoray.errors import CheckpointError
from sonoray_jobs.road.train_config import TrainStage
from sonoray_jobs.training.checkpoint import load_weights, read_position
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.saving.saver import checkpoint_files
from sonoray_jobs.training.worker import set_trainable

STAGE = TrainStage(name="instruct", epochs=1, learning_rate=1e-3, lora=True)
POSITION = Position(stage=1, epochs=1, steps=2, digests={})


def build(variant, seed):
    values = tiny_config().model_dump()
    values["lora"]["variant"] = variant
    config = ModelConfig.model_validate(values)
    model = tiny_model(config, tiny_language(config), seed=seed)
    set_trainable(model, STAGE)
    return model


def write(folder, model):
    """The folder of a checkpoint of the model."""
    store = CheckpointStore(str(folder))
    weights = {name: tensor.detach() for name, tensor in trainable_parameters(model).items()}
    return folder / store.write(POSITION, checkpoint_files(weights, {}))


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_a_checkpoint_holds_all_of_an_adapter(variant, tmp_path):
    model, other = build(variant, 1), build(variant, 2)
    learned = trainable_parameters(model)
    magnitudes = [name for name in learned if "lora_magnitude_vector" in name]
    assert len(magnitudes) == (14 if variant == "dora" else 0)  # 7 layers in each of 2 blocks
    saved = write(tmp_path, model)
    assert read_position(saved).steps == POSITION.steps
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = other.language_model(ids).logits
        load_weights(other, saved)
        after, wanted = other.language_model(ids).logits, model.language_model(ids).logits
    assert not torch.allclose(before, wanted, atol=1e-3)
    assert torch.equal(after, wanted)
    for name, parameter in trainable_parameters(other).items():
        assert torch.equal(parameter, learned[name]), name


def test_a_checkpoint_of_another_kind_of_adapter_is_refused(tmp_path):
    saved = write(tmp_path, build("dora", 1))
    with pytest.raises(CheckpointError, match="lora_magnitude_vector"):
        load_weights(build("lora", 1), saved)


def test_a_checkpoint_brings_the_averages_of_an_objective_back(tmp_path):
    values = {**tiny_config().model_dump(), "objectives": [LaverObjective().model_dump()]}
    config = ModelConfig.model_validate(values)
    model, other = (tiny_model(config, tiny_language(config), seed=seed) for seed in (1, 2))
    with torch.no_grad():
        for buffer in kept_buffers(model).values():
            buffer.normal_()
    weights = {**trainable_parameters(model), **kept_buffers(model)}
    store = CheckpointStore(str(tmp_path))
    files = checkpoint_files({name: each.detach() for name, each in weights.items()}, {})
    load_weights(other, tmp_path / store.write(POSITION, files))
    kept = kept_buffers(other)
    assert len(kept) > 10
    for name, buffer in kept_buffers(model).items():
        assert torch.equal(kept[name], buffer), name
