"""Losses and gradients of a step do not depend on its parts, nor on who computes them."""

import subprocess
import sys

import pytest
import torch

from llava_ultra.batch import Batch, StudyFeatures, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling, KeepAllSampling
from llava_ultra.cost.counting import LiveBytes
from llava_ultra.model import trainable_parameters
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model

RUN = """
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import peft  # here, and not in each of the forked ranks
import torch

from llava_ultra.batch import Batch, StudyFeatures, collate_features, collate_texts
from llava_ultra.model import trainable_parameters
from llava_ultra.objectives.ranks import sum_over_ranks
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from llava_ultra.testing import TEXTS, tiny_config, tiny_language, tiny_model


def step(rank, world, limits):
    config = tiny_config()
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    share = np.array_split(np.arange(7), world)[rank].tolist()
    images, rows = [], []
    for place, study in enumerate(share):
        generator = np.random.default_rng(study)
        clip, sam = generator.standard_normal((2, 1 + study % 4, 4, 32), dtype=np.float32)
        images.append(StudyFeatures(clip=clip, sam=sam))
        # unlike numbers of texts of unlike lengths
        rows += [(place, "?" * (1 + study), TEXTS[(study + n) % 9]) for n in range(1 + study % 3)]
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    found = forward_share(model, Batch(visual=collate_features(images), text=text), limits)
    found.owed.backward()
    gradients = {}
    for name, parameter in trainable_parameters(model).items():  # as DeepSpeed does
        torch.distributed.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / world
    names = sorted(found.losses)
    *sums, answers = sum_over_ranks(
        [*(found.losses[name] * found.num_answers for name in names), found.num_answers]
    )
    losses = {name: total / answers for name, total in zip(names, sums)}
    return {"losses": losses, "gradients": gradients, "answers": answers}


def run(folder, rank, world):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
    )
    limits = {
        "whole": PartLimits(),
        "ones": PartLimits(studies=1),
        "twos": PartLimits(studies=2),
        "tokens": PartLimits(tokens=60),
        "one rank": PartLimits(studies=2 if rank == 0 else 0),
    }
    found = {name: step(rank, world, limit) for name, limit in limits.items()}
    torch.save(found, Path(folder) / f"{world}-{rank}.pt")
    torch.distributed.destroy_process_group()


fork = multiprocessing.get_context("fork")
for world in (1, 2, 3):
    ranks = [fork.Process(target=run, args=(sys.argv[1], rank, world)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict]:
    """By (number of ranks, rank): what it computed, by the limits of a part."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return {
        (world, rank): torch.load(folder / f"{world}-{rank}.pt", weights_only=True)
        for world in (1, 2, 3)
        for rank in range(world)
    }


@pytest.mark.parametrize("limits", ["whole", "ones", "twos", "tokens", "one rank"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_step_in_parts_is_the_step_at_once_on_any_number_of_ranks(found, world, limits):
    expected = found[1, 0]["whole"]
    assert set(expected["losses"]) == {"loss", "answer_loss", "distillation_loss", "grounding_loss"}
    assert expected["losses"]["grounding_loss"] > 1  # log 7 is 1.9
    for rank in range(world):
        own = found[world, rank][limits]
        assert own["answers"] == expected["answers"]
        assert own["losses"] == pytest.approx(expected["losses"], abs=1e-6, rel=1e-6)
        assert own["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            torch.testing.assert_close(
                own["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name
            )


def build(sampling, dtype=torch.float32):
    config = tiny_config(sampling)
    language = tiny_language(config)
    model = tiny_model(config, language).to(dtype).train()
    generator = torch.Generator().manual_seed(0)
    images = [
        StudyFeatures(
            clip=torch.randn(count, 4, 32, generator=generator).numpy(),
            sam=torch.randn(count, 4, 32, generator=generator).numpy(),
        )
        for count in (3, 1, 2)
    ]
    rows = [(0, "病灶?", TEXTS[1]), (2, "请描述", TEXTS[4]), (2, "病灶?", TEXTS[2]), (1, "?", "左")]
    text = collate_texts(language.tokenizer, rows, max_tokens=200)
    return model, Batch(visual=collate_features(images), text=text)


def test_every_parameter_is_touched_where_a_part_is_carried_on():
    """An image that is alone moves no score; its gradient is zero, and not absent."""
    model, batch = build(AdaptiveSampling())
    idle = torch.nn.Parameter(torch.ones(3))
    model.register_parameter("idle", idle)
    forward_share(model, batch, PartLimits(studies=1)).owed.backward()
    assert all(parameter.grad is not None for parameter in trainable_parameters(model).values())
    assert torch.equal(idle.grad, torch.zeros(3))


def test_one_parts_activations_are_alive_at_a_time():
    model, batch = build(KeepAllSampling())
    peaks = []
    for limits in (PartLimits(), PartLimits(studies=1)):
        model.zero_grad()
        with LiveBytes(model) as memory:
            forward_share(model, batch, limits).owed.backward()
        peaks.append(memory.peak)
    assert peaks[1] < 0.8 * peaks[0]


def test_parameters_spread_by_zero_3_are_refused_in_parts():
    model, batch = build(AdaptiveSampling())
    parameter = next(iter(trainable_parameters(model).values()))
    parameter.ds_id = 0  # how DeepSpeed marks them
    forward_share(model, batch, PartLimits())
    with pytest.raises(ValueError, match=r"micro_studies and train\.micro_tokens to 0"):
        forward_share(model, batch, PartLimits(studies=1))


def test_the_engine_runs_once_and_the_last_part():
    model, batch = build(AdaptiveSampling())
    ran = []

    def engine(visual, text, *others):
        ran.append(len(text.ids))
        return model(visual, text, *others)

    forward_share(model, batch, PartLimits(studies=2), run=engine)
    forward_share(model, batch, PartLimits(), run=engine)
    assert ran == [2, 4]


def test_gradients_come_in_the_order_of_the_parameters_whatever_questions_share():
    """ZeRO puts them into buckets as they come, and adds up the buckets of all workers."""
    orders = []
    for studies in ([0, 1], [2]):  # the third one's questions may share a reading
        model, batch = build(AdaptiveSampling(balance=0.0))
        share = forward_share(model, batch.of_studies(studies), PartLimits())
        order = []
        for name, parameter in trainable_parameters(model).items():
            parameter.register_post_accumulate_grad_hook(
                lambda _, name=name, order=order: order.append(name)
            )
        share.owed.backward()
        orders.append(order)
    assert len(orders[0]) == len(trainable_parameters(model))
    assert orders[0] == orders[1]
