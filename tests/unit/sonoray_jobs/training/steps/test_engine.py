import json
import subprocess
import sys

import pytest
import torch

from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.steps.engine import checked, engine_config

RUN = """
import json
import os
import sys
from pathlib import Path

import torch

from llava_ultra.batch import Batch
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra, trainable_parameters
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from llava_ultra.testing import tiny_batch, tiny_config, tiny_language
from sonoray_jobs.road.train_config import TrainConfig, TrainStage
from sonoray_jobs.training.checkpoint import place_moments
from sonoray_jobs.training.steps.engine import (
    build_engine,
    close_engine,
    take_step,
    whole_state,
)
from sonoray_jobs.training.worker import set_trainable

os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
store = f"file://{Path(sys.argv[1]) / 'store'}"
torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
config = tiny_config()
found = {}
for stage in (0, 1, 2, 3):
    language = tiny_language(config)
    torch.manual_seed(0)
    model = LlavaUltra(config, add_lora(language.model, config.lora)).train()
    set_trainable(model, TrainStage(name="x", epochs=1, learning_rate=1e-2, lora=True))
    visual, text = tiny_batch(config, language.tokenizer)
    engine = build_engine(model, TrainConfig(zero_stage=stage, zero_whole_below=0), 1e-2)
    place_moments(engine, 0)

    def weights():
        parameters = trainable_parameters(model).values()
        return torch.cat([whole_state(engine, each).flatten() for each in parameters])

    def step(factor):
        share = forward_share(model, Batch(visual=visual, text=text), PartLimits(), run=engine)
        engine.backward(share.owed * factor)
        return take_step(engine)

    before = weights()
    applied = [step(1.0), step(float("inf")), step(1.0)]
    between = weights()
    applied.append(step(float("nan")))
    found[stage] = {
        "applied": applied,
        "moved": float((between - before).abs().max()),
        "kept": torch.equal(weights(), between),
        "sum": float(between.double().sum()),
        "finite": bool(between.isfinite().all()),
    }
    close_engine(engine)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing_at_any_stage(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == {"0", "1", "2", "3"}
    for stage in found.values():
        assert stage["applied"] == [True, False, True, False]
        assert stage["moved"] > 1e-3
        assert stage["kept"]
        assert stage["finite"]
        assert stage["sum"] == pytest.approx(found["2"]["sum"], rel=1e-6)


def test_deepspeed_is_told_the_stage_and_what_lies_on_the_host():
    zero = engine_config(TrainConfig())["zero_optimization"]
    assert zero == {"stage": 2, "stage3_param_persistence_threshold": 100_000}
    settings = TrainConfig(zero_stage=3, offload="all", zero_whole_below=7, clip_norm=0.5)
    config = engine_config(settings, pin_memory=True)
    assert config["gradient_clipping"] == 0.5
    host = {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"] == {
        "stage": 3,
        "stage3_param_persistence_threshold": 7,
        "offload_optimizer": host,
        "offload_param": host,
    }
    assert "offload_param" not in engine_config(TrainConfig(offload="optimizer"))


def test_a_parameter_that_was_gathered_empty_is_an_error():
    parameter = torch.nn.Parameter(torch.empty(0))
    parameter.ds_shape = torch.Size([4, 2])  # how ZeRO-3 keeps the whole one's
    with pytest.raises(RuntimeError, match=r"gathered \(0,\) of a parameter of shape \(4, 2\)"):
        checked(parameter, parameter)
