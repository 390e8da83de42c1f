"""The workers' own loop in real processes over gloo and DeepSpeed, without a Ray cluster.

Ray Train's local mode gives each process its rank. Left out are the ways in and out: the loader
runs in the process itself, and what is reported is kept in a folder.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llava_ultra.language.decoder import save_language
from llava_ultra.testing import tiny_config, tiny_language
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.worker import TrainJob

pytestmark = pytest.mark.slow

RUNS = """
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import deepspeed  # here, and not in each of the forked ranks: it takes the most of their time
import peft
import ray.train
from ray.train.torch import TorchTrainer

from llava_ultra import batch, model
from sonoray_jobs.training import checkpoint, step_loader
from sonoray_jobs.training import stream as loading
from sonoray_jobs.training import worker as training


class Silent:
    def poster(self, part):
        return lambda *_: None


def iter_loaded_here(source, _):
    load = step_loader.StepLoader(source)
    for row in source.rows():
        yield from step_loader.unpack_steps(source, load(row))


def train(job, target, rank, num_ranks, port, resume_from):
    def keep(metrics, checkpoint=None):
        if checkpoint is not None:
            kept = Path(target) / f"epoch {metrics['epoch']}"
            shutil.copytree(checkpoint.path, kept)
            (kept / "metrics.json").write_text(json.dumps(metrics))

    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, num_ranks, num_ranks, port)
    os.environ.update(zip(names, map(str, values)), MASTER_ADDR="127.0.0.1")
    loading.iter_loaded_steps = iter_loaded_here
    ray.train.report = keep
    if resume_from:
        ray.train.get_checkpoint = lambda: ray.train.Checkpoint.from_directory(resume_from)
    TorchTrainer(
        training.train_loop_per_worker,
        train_loop_config={"job": job, "board": Silent()},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    ).fit()


fork = multiprocessing.get_context("fork")
for job, target, num_ranks, port, resume_from in json.loads(sys.argv[1]):
    ranks = [
        fork.Process(target=train, args=(job, target, rank, num_ranks, port, resume_from))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(1)
"""

NUM_TURNS = (1, 2, 6)
"""Of each study: however two ranks share the three, studies and answers weigh them differently."""
ANSWERS = ("良性", "恶性", "甲状腺", "左侧甲状腺见一低回声结节", "肝脏", "乳腺")


def road_of(**train: object) -> RoadConfig:
    """A single step with the losses of the defaults, without dropout: its masks belong to ranks."""
    return RoadConfig.model_validate(
        {
            "model": tiny_config().model_dump(),
            "embed": {"dtype": "float32"},
            "train": {
                "stages": [{"name": "instruct", "epochs": 1, "learning_rate": 1e-2, "lora": True}],
                "studies_per_step": 3,
                "clip_norm": 1e6,  # a clipped gradient would hide its size
                **train,
            },
        }
    )


def sections(road: RoadConfig) -> dict[str, Any]:
    """What a worker is told of a road."""
    return {"model": road.model, "train": road.train, "embed": road.embed}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    folder = tmp_path_factory.mktemp("job")
    studies = [
        Study(
            study_id=f"s{number}",
            patient_key=f"p{number}",
            split="train",
            dataset="d",
            images=tuple(
                StudyImage(image_id=f"{number}-{place}", uri="", width=8, height=8)
                for place in range(1 + number)
            ),
            turns=tuple(
                Turn(question=f"器官{turn}?", answer=ANSWERS[turn]) for turn in range(num_turns)
            ),
        )
        for number, num_turns in enumerate(NUM_TURNS)
    ]
    (folder / "dataset").mkdir()
    write_studies(folder / "dataset", studies)
    save_language(tiny_language(tiny_config()), folder / "language")
    job = TrainJob(
        **sections(road_of()),
        dataset=folder / "dataset",
        language=folder / "language",
        features=str(folder / "features"),
        fingerprints={"clip": "clip", "sam": "sam"},
        towers={},
    )
    ids = [image.image_id for study in studies for image in study.images]
    for seed, store in enumerate(job.stores().values()):
        generator = np.random.default_rng(seed)
        store.write(ids, generator.standard_normal((len(ids), *store.shape), dtype=np.float32))
    return job


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def runs(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the loop makes of all answers on one rank and on others, and of noisy features."""
    folder = tmp_path_factory.mktemp("runs")
    two_epochs = [{"name": "instruct", "epochs": 2, "learning_rate": 1e-2, "lora": True}]
    roads = {
        "one": road_of(num_workers=1),
        "two": road_of(num_workers=2, stages=two_epochs),
        "three": road_of(num_workers=3),
        "resumed": road_of(num_workers=3, stages=two_epochs),
        "noisy": road_of(num_workers=1, feature_noise=5.0),
        "noisy on two": road_of(num_workers=2, feature_noise=5.0),
    }
    plans = [
        (
            job.model_copy(update=sections(road)).model_dump(mode="json"),
            str(folder / name),
            road.train.num_workers,
            free_port(),
            str(folder / "two" / "epoch 1") if name == "resumed" else None,
        )
        for name, road in roads.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(plans)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: folder / name for name in roads}


def metrics(run: Path, epoch: int = 1) -> dict[str, float]:
    """What was reported of an epoch."""
    file = run / f"epoch {epoch}" / "metrics.json"
    values: dict[str, float] = json.loads(file.read_text())
    return values


def weights(run: Path, epoch: int = 1) -> dict[str, torch.Tensor]:
    return load_file(run / f"epoch {epoch}" / "weights.safetensors")


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """By parameter; Adam's first moment after one step is a tenth of the gradient."""
    moments = load_file(run / "epoch 1" / "optimizer.safetensors")
    suffix = "|exp_avg"
    return {
        name.removesuffix(suffix): 10 * moment
        for name, moment in moments.items()
        if name.endswith(suffix)
    }


@pytest.mark.parametrize("others", ["two", "three"])
def test_ranks_learn_what_one_does_though_they_have_unlike_numbers_of_answers(runs, others):
    one, shared = runs["one"], runs[others]
    for name in ("loss", "answer_loss", "distillation_loss", "grounding_loss"):
        assert metrics(shared)[name] == pytest.approx(metrics(one)[name], rel=1e-6), name
    assert metrics(one)["grounding_loss"] > 0.5  # log 3 is 1.1; of one study alone it would be 0
    expected, found = gradients(one), gradients(shared)
    before, after = weights(one), weights(shared)
    assert set(expected) == set(found) == set(before)
    assert any("lora" in name for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        # Adam's first step is the gradient's sign: where there is none, it is that of the noise.
        real = gradient.abs() > 1e-4
        torch.testing.assert_close(
            after[name][real], before[name][real], rtol=1e-5, atol=1e-6, msg=name
        )


def test_each_loss_counts_with_its_weight(runs):
    values = metrics(runs["one"])
    expected = values["answer_loss"] + values["distillation_loss"]
    assert values["loss"] == pytest.approx(expected + 0.2 * values["grounding_loss"], rel=1e-6)
    assert values["distillation_loss"] > 1e-3


def test_noise_on_the_features_reaches_the_gradients(runs):
    one, noisy = runs["one"], runs["noisy"]
    assert metrics(noisy)["answer_loss"] != pytest.approx(metrics(one)["answer_loss"], rel=1e-4)
    name = "fusion.project_clip.1.weight"
    plain, moved = gradients(one)[name], gradients(noisy)[name]
    assert (moved - plain).norm() > 0.1 * plain.norm()


def test_a_studys_noise_is_the_same_on_any_number_of_ranks(runs):
    one, two = runs["noisy"], runs["noisy on two"]
    assert metrics(two)["loss"] == pytest.approx(metrics(one)["loss"], rel=1e-5)
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradients(two)[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_three_ranks_go_on_where_two_stopped(runs):
    """Adam's second step is that of the moments of the first, whoever held them."""
    whole, resumed = runs["two"], runs["resumed"]
    assert not (resumed / "epoch 1").exists()
    assert metrics(resumed, 2)["loss"] == pytest.approx(metrics(whole, 2)["loss"], rel=1e-5)
    start, expected, found = weights(whole, 1), weights(whole, 2), weights(resumed, 2)
    moments = [load_file(run / "epoch 2" / "optimizer.safetensors") for run in (whole, resumed)]
    assert set(expected) == set(found)
    for name, tensor in expected.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            there, here = (values[f"{name}|{moment}"] for values in moments)
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-6, msg=name)
        real = moments[0][f"{name}|exp_avg"].abs() > 1e-4
        assert not torch.equal(tensor, start[name]), name
        torch.testing.assert_close(found[name][real], tensor[real], rtol=1e-4, atol=1e-5, msg=name)
