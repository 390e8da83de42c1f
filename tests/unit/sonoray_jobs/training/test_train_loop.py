"""The workers' own loop in real processes over gloo and DeepSpeed, without a Ray cluster.

Ray Train's local mode gives each process its rank. Left out are the ways in and out: the loader
runs in the process itself, and what is reported and said is kept in a folder.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llava_ultra.language.decoder import save_language
from llava_ultra.parameters.products import cpu_has_bfloat16
from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.testing import tiny_config, tiny_language
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray_jobs.outputs.find import TRAINING_VERSION
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.checkpoint import read_position
from sonoray_jobs.training.worker import TrainJob

pytestmark = pytest.mark.slow

RUNS = """
import json
import multiprocessing
import os
import shutil
import socket
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


class Board:
    def __init__(self, target):
        self.target = target

    def poster(self, part):
        return lambda *_: None

    def say(self, line):
        with (self.target / "said").open("a") as file:
            print(line, file=file)


def iter_loaded_here(source, _):
    load = step_loader.StepLoader(source)
    for row in source.rows():
        yield from step_loader.unpack_steps(source, load(row))


def train(job, target, rank, num_ranks, port):
    def keep(metrics):
        if rank == 0 and "epoch_s" in metrics:  # else a validation alone, or told again
            (target / f"epoch {metrics['epoch']}.json").write_text(json.dumps(metrics))

    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, num_ranks, num_ranks, port)
    os.environ.update(zip(names, map(str, values)), MASTER_ADDR="127.0.0.1")
    loading.iter_loaded_steps = iter_loaded_here
    ray.train.report = keep
    result = TorchTrainer(
        training.train_loop_per_worker,
        train_loop_config={"job": job, "board": Board(target)},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    ).fit()
    (target / "error").write_text(result.return_value)


def free_port():  # right before use: another process may take it at any time
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


fork = multiprocessing.get_context("fork")
for job, resumed, num_ranks in json.loads(sys.argv[1]):
    port = free_port()
    target = Path(job["checkpoints"])
    target.mkdir()
    if resumed:
        shutil.copytree(resumed, target / Path(resumed).name)
    ranks = [
        fork.Process(target=train, args=(job, target, rank, num_ranks, port))
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
ZERO: dict[str, dict[str, object]] = {
    "stage 2": {},
    "stage 0": {"zero_stage": 0},
    "stage 1": {"zero_stage": 1},
    "stage 3": {"zero_stage": 3, "zero_whole_below": 0},
    "stage 3, small ones whole": {"zero_stage": 3},
    "stage 3, checkpoints": {
        "zero_stage": 3,
        "zero_whole_below": 0,
        "activation_checkpointing": True,
    },
    "stage 2, optimizer on the host": {"offload": "optimizer"},
    "stage 3, all on the host": {"zero_stage": 3, "zero_whole_below": 0, "offload": "all"},
    "stage 3, resumed": {"zero_stage": 3, "zero_whole_below": 0},
    "stage 0, resumed": {"zero_stage": 0},
}
"""Trainings that differ in what the workers spread."""
BROKEN = "broken"
"""Folder of features that overflow in the model."""
RATE = 1e-2
"""Learning rate of the trainings that are compared across stages of ZeRO."""
ROUNDING = 1e-8
"""Of a gradient's moving mean, by the order of sums; 1e-9 to 4e-8 were seen."""
ANSWERS = ("良性", "恶性", "甲状腺", "左侧甲状腺见一低回声结节", "肝脏", "乳腺")


BANK = ClassBank(
    label="kind", classes=(BankClass(name="良性"), BankClass(name="恶性", descriptions=("乳腺",)))
)
RECOGNISING = ({"type": "answer"}, {"type": "recognition", "bank": "of the job"})


def road_of(
    dropout: float = 0, objectives: Sequence[dict[str, str]] = (), **train: object
) -> RoadConfig:
    """A single step with the losses of the defaults, without dropout: its masks belong to ranks."""
    model = tiny_config().model_dump()
    model["lora"]["dropout"] = dropout
    if objectives:
        model["objectives"] = objectives
    return RoadConfig.model_validate(
        {
            "model": model,
            "embed": {"dtype": "float32"},
            "train": {
                "stages": [{"name": "instruct", "epochs": 1, "learning_rate": 1e-2, "lora": True}],
                "studies_per_step": 3,
                "clip_norm": 1e6,  # a clipped gradient would hide its size
                "keep_checkpoints": 100,
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
            split="train" if number < 3 else "validation",
            dataset="d",
            images=tuple(
                StudyImage(image_id=f"{number}-{place}", uri="", width=8, height=8)
                for place in range(1 + number % 3)
            ),
            turns=tuple(
                Turn(question=f"器官{turn}?", answer=ANSWERS[turn]) for turn in range(num_turns)
            ),
            labels={"kind": BANK.names[number % 2]},
        )
        for number, num_turns in enumerate((*NUM_TURNS, 3, 1))
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
        checkpoints="",
    )
    ids = [image.image_id for study in studies for image in study.images]
    broken = job.model_copy(update={"features": str(folder / BROKEN)})
    pairs = zip(job.stores().values(), broken.stores().values(), strict=True)
    for seed, (store, other) in enumerate(pairs):
        generator = np.random.default_rng(seed)
        values = generator.standard_normal((len(ids), *store.shape), dtype=np.float32)
        store.write(ids, values)
        values[ids.index("1-0")] = 3e38  # of the second study: its mean overflows
        other.write(ids, values)
    return job


@pytest.fixture(scope="module")
def runs(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the loop makes of all answers on one rank and on others, and of noisy features."""
    folder = tmp_path_factory.mktemp("runs")
    two_epochs = {
        "stages": [{"name": "instruct", "epochs": 2, "learning_rate": 1e-2, "lora": True}]
    }
    stepwise = {"num_workers": 1, "studies_per_step": 1, "save_every": "1 steps", **two_epochs}
    two_stages = {
        "stages": [
            {"name": "align", "epochs": 1, "learning_rate": RATE},
            {"name": "instruct", "epochs": 2, "learning_rate": RATE, "lora": True},
        ],
        "clip_norm": 0.1,
        "validate_every": "epoch",
    }
    random = {"dropout": 0.1, "feature_noise": 0.5}
    judged = {"validate_every": "2 steps", "keep": "best"}
    idle = {"name": "align", "epochs": 2, "learning_rate": 1e-30}
    roads = {
        "one": road_of(num_workers=1, validate_every="epoch"),
        "two": road_of(num_workers=2, validate_every="epoch", **two_epochs),
        "three": road_of(num_workers=3),
        "in parts": road_of(num_workers=2, micro_studies=1, activation_checkpointing=True),
        "resumed": road_of(num_workers=3, **two_epochs),
        "noisy": road_of(num_workers=1, feature_noise=5.0),
        "noisy on two": road_of(num_workers=2, feature_noise=5.0),
        "stepwise": road_of(**stepwise, **random, **judged),
        "interrupted": road_of(**stepwise, **random, **judged),
        "not judged": road_of(**stepwise, **random),
        "stopped": road_of(
            **stepwise | {"stages": [idle, *two_epochs["stages"]]},
            validate_every="1 steps",
            patience=1,
        ),
        **{name: road_of(num_workers=2, **two_stages, **zero) for name, zero in ZERO.items()},
        "broken": road_of(**stepwise),
        "broken and resumed": road_of(**stepwise),
        "diverged": road_of(**stepwise, max_skipped=0),
        "recognising": road_of(objectives=RECOGNISING, num_workers=1, **two_epochs),
        "recognising in parts": road_of(objectives=RECOGNISING, num_workers=2, micro_studies=1),
        "recognising and resumed": road_of(objectives=RECOGNISING, num_workers=2, **two_epochs),
    }
    if cpu_has_bfloat16():
        half = {"num_workers": 2, "precision": "bfloat16"}
        roads["half"] = road_of(**half)
        roads["half, stage 3"] = road_of(**half, zero_stage=3, zero_whole_below=0)
    resumed = {
        "stage 3, resumed": "stage 2/checkpoint_01_00000001",
        "stage 0, resumed": "stage 3/checkpoint_01_00000001",
        "resumed": "two/checkpoint_00_00000001",
        "interrupted": "stepwise/checkpoint_00_00000002",
        "broken and resumed": "broken/checkpoint_00_00000004",
        "recognising and resumed": "recognising in parts/checkpoint_00_00000001",
    }
    plans = [
        (
            job.model_copy(
                update={
                    **sections(road),
                    "checkpoints": str(folder / name),
                    "bank": BANK if name.startswith("recognising") else None,
                    "features": job.features.replace("features", BROKEN)
                    if name.startswith(("broken", "diverged"))
                    else job.features,
                }
            ).model_dump(mode="json"),
            name in resumed and str(folder / resumed[name]),
            road.train.num_workers,
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
    values: dict[str, float] = json.loads((run / f"epoch {epoch}.json").read_text())
    assert values.pop("epoch_s") >= values.pop("saving_s") >= 0
    return values


def saved(run: Path, step: int = 1) -> Path:
    """The checkpoint of a step."""
    return run / f"checkpoint_00_{step:08}"


def weights(run: Path, step: int = 1) -> dict[str, torch.Tensor]:
    return load_file(saved(run, step) / "weights.safetensors")


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """By parameter; Adam's first moment after one step is a tenth of the gradient."""
    moments = load_file(saved(run) / "optimizer.safetensors")
    suffix = "|exp_avg"
    return {
        name.removesuffix(suffix): 10 * moment
        for name, moment in moments.items()
        if name.endswith(suffix)
    }


@pytest.mark.parametrize("others", ["two", "three", "in parts"])
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


def test_recognition_learns_the_same_in_parts_on_two_ranks_and_goes_on_with_its_heads(runs):
    one, parts = runs["recognising"], runs["recognising in parts"]
    assert set(metrics(one)) >= {"answer_loss", "recognition_loss"}
    assert "grounding_loss" not in metrics(one)
    assert metrics(one)["recognition_loss"] > 0.5
    for name in ("loss", "answer_loss", "recognition_loss"):
        assert metrics(parts)[name] == pytest.approx(metrics(one)[name], rel=1e-6), name
    expected, found = gradients(one), gradients(parts)
    assert set(expected) == set(found)
    heads = [name for name in expected if name.startswith("recognition.")]
    assert "recognition.tokens.text" in heads
    assert any(name.startswith("recognition.heads.class.") for name in heads)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    again = runs["recognising and resumed"]
    assert metrics(again, 2)["recognition_loss"] == pytest.approx(
        metrics(one, 2)["recognition_loss"], rel=1e-4
    )
    for name in heads:
        torch.testing.assert_close(
            weights(again, 2)[name], weights(one, 2)[name], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("spread", [name for name in ZERO if name != "stage 2"])
def test_every_stage_of_zero_learns_the_same(runs, spread):
    """Through both stages of a training, clipping, moments, and judging between the epochs."""
    known, other = runs["stage 2"], runs[spread]
    epochs = (2,) if "resumed" in spread else (1, 2)
    for epoch in epochs:
        expected, found = metrics(known, epoch), metrics(other, epoch)
        assert expected.keys() == found.keys()
        for name in ("loss", "grounding_loss", "validation_loss", "alpha"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), (epoch, name)
    first = load_file(known / "checkpoint_01_00000001" / "optimizer.safetensors")
    for name in (f"checkpoint_01_{step:08}" for step in epochs):
        moments, adam = (load_file(run / name / "optimizer.safetensors") for run in (known, other))
        expected, found = (load_file(run / name / "weights.safetensors") for run in (known, other))
        assert any("lora_A" in key for key in expected)
        assert (moments.keys(), expected.keys()) == (adam.keys(), found.keys())
        for key, tensor in expected.items():
            for moment in (f"{key}|exp_avg", f"{key}|exp_avg_sq"):
                torch.testing.assert_close(
                    adam[moment], moments[moment], rtol=1e-3, atol=1e-6, msg=moment
                )
            # Adam's step is a gradient's sign: where there was none, it is that of the noise; where
            # there was little, the rounding of its sum is that share of a step
            least = torch.minimum(moments[f"{key}|exp_avg"].abs(), first[f"{key}|exp_avg"].abs())
            real = least > 1e-6
            allowed = 1e-5 + 1e-4 * tensor.abs() + RATE * ROUNDING / least
            differing = real & ((found[key] - tensor).abs() > allowed)
            assert not differing.any(), (key, differing.nonzero().tolist())


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16")
@pytest.mark.parametrize("spread", ["half", "half, stage 3"])
def test_half_precision_learns_nearly_the_same_and_keeps_float32(runs, spread):
    one, half = runs["one"], runs[spread]
    for name in ("answer_loss", "distillation_loss", "grounding_loss"):
        assert metrics(half)[name] == pytest.approx(metrics(one)[name], rel=0.02, abs=1e-3), name
        assert metrics(half)[name] != metrics(one)[name]
    expected, found = gradients(one), gradients(half)
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        assert found[name].dtype == weights(half)[name].dtype == torch.float32
        if gradient.norm() > 1e-3:
            likeness = torch.cosine_similarity(gradient.flatten(), found[name].flatten(), dim=0)
            assert likeness > 0.97, name


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
    assert not (resumed / "epoch 1.json").exists()
    assert metrics(resumed, 2)["loss"] == pytest.approx(metrics(whole, 2)["loss"], rel=1e-5)
    start, expected, found = weights(whole, 1), weights(whole, 2), weights(resumed, 2)
    moments = [load_file(saved(run, 2) / "optimizer.safetensors") for run in (whole, resumed)]
    assert set(expected) == set(found)
    for name, tensor in expected.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            there, here = (values[f"{name}|{moment}"] for values in moments)
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-6, msg=name)
        real = moments[0][f"{name}|exp_avg"].abs() > 1e-4
        assert not torch.equal(tensor, start[name]), name
        torch.testing.assert_close(found[name][real], tensor[real], rtol=1e-4, atol=1e-5, msg=name)


def test_a_training_goes_on_in_the_middle_of_an_epoch_to_the_same_bits(runs):
    """Dropout, noise, the order of the studies and the means of the epoch: all go on."""
    whole, resumed = runs["stepwise"], runs["interrupted"]
    assert [path.name for path in sorted(whole.glob("checkpoint_*"))] == [
        saved(whole, step).name for step in range(1, 7)
    ]
    for step in range(3, 7):
        expected, found = (read_position(saved(run, step)) for run in (whole, resumed))
        assert found == expected  # with the digests of all files
    assert not saved(resumed, 1).exists()
    for epoch in (1, 2):
        assert metrics(resumed, epoch) == metrics(whole, epoch)
    assert weights(whole, 2).keys() == weights(whole, 6).keys()


def test_a_step_whose_loss_is_not_finite_changes_nothing_and_is_said(runs):
    broken, resumed = runs["broken"], runs["broken and resumed"]
    skipped = [read_position(saved(broken, step)).skipped for step in range(1, 7)]
    assert skipped[2] == 1
    assert skipped[5] == 2
    (first, second) = (skipped.index(1) + 1, skipped.index(2) + 1)
    assert (broken / "said").read_text().splitlines() == [
        f"step {step} of stage 'instruct' is skipped: its loss or a gradient is not finite "
        f"({count} skipped in this stage)"
        for count, step in enumerate((first, second), 1)
    ]
    before, after = weights(broken, second - 1), weights(broken, second)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in after.values())
    (line,) = (resumed / "said").read_text().splitlines()[:1]
    assert line == "goes on from checkpoint_00_00000004, after step 4 of stage 'instruct'"
    # Adam counts the steps that it made
    assert read_position(saved(resumed, 6)) == read_position(saved(broken, 6))
    assert metrics(broken, 2)["skipped_steps"] == 2
    assert np.isfinite(metrics(broken, 2)["loss"])


def test_one_more_such_step_than_is_allowed_ends_the_training(runs):
    message = (runs["diverged"] / "error").read_text()
    assert "the loss or a gradient of stage 'instruct' is not finite at its step" in message


def test_workers_judge_the_same_studies_however_many_they_are(runs):
    one, two = metrics(runs["one"]), metrics(runs["two"])
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)
    assert one["validation_loss"] > 0.5
    assert one["validation_hit"] == two["validation_hit"] == 0  # after one step
    assert one["validation_loss"] != pytest.approx(one["answer_loss"], rel=1e-3)  # of others


def test_judging_changes_nothing_of_what_is_learned(runs):
    judged, other = runs["stepwise"], runs["not judged"]
    assert not set(metrics(other)) & {"validation_loss", "validation_hit"}
    for step in (2, 6):
        assert read_position(saved(judged, step)).validation_loss is not None
        for name, tensor in weights(other, step).items():
            assert torch.equal(weights(judged, step)[name], tensor), name
    assert read_position(saved(judged, 3)).validation_loss is None


def test_a_stage_that_gets_no_better_ends_early_and_the_next_one_begins(runs):
    run = runs["stopped"]
    first, *_ = (run / "said").read_text().splitlines()
    assert first.startswith("stage 'align' ends at step 2 of 6: 1 validations without a lower loss")
    names = [path.name for path in sorted(run.glob("checkpoint_*"))]
    assert names[:3] == [
        f"checkpoint_{stage:02}_{step:08}" for stage, step in ((0, 1), (0, 2), (1, 1))
    ]
    stopped, begun = (read_position(run / name) for name in names[1:3])
    assert (stopped.stopped, stopped.stale, stopped.best_loss) == (True, 1, stopped.validation_loss)
    assert (begun.stopped, begun.stale) == (False, 0)


OUTCOMES = {2: {"two": 6.02614037, "noisy": 6.12372255}}
"""By `TRAINING_VERSION`: the losses that are learned, by run. Version 2 learns conversations."""


def test_what_is_learned_is_that_of_the_version(runs):
    found = {"two": metrics(runs["two"], 2)["loss"], "noisy": metrics(runs["noisy"])["loss"]}
    assert found == pytest.approx(OUTCOMES.get(TRAINING_VERSION), rel=1e-4), (
        "other losses are learned from the same: finished trainings would be taken for what this "
        "code makes; raise TRAINING_VERSION in sonoray_jobs.outputs.find and write them down here"
    )
