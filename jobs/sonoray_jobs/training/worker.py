"""What one Ray Train worker does: two stages of DeepSpeed steps over cached features.

Fusion and sampler learn in every stage, the LoRA adapters where the stage says so; the towers are
not even loaded, and the language model's own weights are frozen. Every epoch ends with one report
and one checkpoint. Reports, checkpoints and gathers are collective: all ranks make the same calls.

The driver and `sonoray describe` import this module too, so that all heavy libraries are imported
where they are used; tests hold the modules and the libraries that importing it loads.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_ultra.config import ModelConfig
from sonoray.cluster.scratch import scratch_folder
from sonoray.config.load import validate_config
from sonoray.config.model import Config
from sonoray.errors import JobFailedError
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.road.train_config import TrainConfig, TrainStage

if TYPE_CHECKING:
    from sonoray.cluster.step_board import StepBoard
    from sonoray.features.store import FeatureStore
    from sonoray.study.sample_order import Plan
    from sonoray_jobs.training.checkpoint import Position
    from sonoray_jobs.training.step_loader import LoadedStep

logger = logging.getLogger(__name__)

_FLOOR_RATE = 0.1
"""What the learning rate falls to, as a share of the stage's."""


class TrainJob(Config):
    """What the driver hands to its workers: plain values, validated again on arrival.

    Of the road it holds the sections that a worker reads.
    """

    model: ModelConfig
    train: TrainConfig
    embed: EmbedConfig
    dataset: Path
    """Dataset folder."""
    language: Path
    """Folder of the base language model."""
    features: str
    """Root of the feature stores, a folder or a URI."""
    fingerprints: dict[str, str]
    """Tower fingerprints, `clip` and `sam`."""
    towers: dict[str, Path]
    """Folders of the towers, which run where their features are not stored."""

    def stores(self) -> "dict[str, FeatureStore]":
        """Open both feature stores."""
        from sonoray_jobs.outputs.stores import stores_of

        return stores_of(self.features, self.model, self.embed.dtype, self.fingerprints)


@dataclass(slots=True)
class _Meter:
    """Means over an epoch's steps and all ranks, weighted by answers."""

    sums: dict[str, float]
    weight: float = 0.0

    def add(self, values: Mapping[str, float], weight: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
        self.weight += weight

    def means(self) -> dict[str, float]:
        """Collective: every rank must call it."""
        *sums, weight = _sum_over_ranks([*self.sums.values(), self.weight])
        return {name: total / weight for name, total in zip(self.sums, sums, strict=True)}


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """Train from the latest checkpoint, or from the start, to the end of the last stage."""
    job = validate_config(TrainJob, config["job"], "train job")
    board: StepBoard = config["board"]
    # DeepSpeed builds its CPU communication op with ninja, found on PATH only.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    import ray.train
    import torch

    from llava_ultra.language.decoder import load_language
    from llava_ultra.language.lora import add_lora
    from llava_ultra.model import LlavaUltra
    from sonoray_jobs.towers.feature_source import feature_source
    from sonoray_jobs.training.checkpoint import Position, check_frozen, load_weights
    from sonoray_jobs.training.step_loader import StepSource
    from sonoray_jobs.training.stream import iter_loaded_steps, loader_room
    from sonoray_jobs.training.studies import training_index

    # More threads than the worker's share of the machine would wait for each other at every step.
    torch.set_num_threads(max(1, round(job.train.cpus_per_worker)))
    torch.manual_seed(job.train.seed)
    language = load_language(job.language)
    digests = {"language": language.digest, **job.fingerprints}
    model = LlavaUltra(job.model, add_lora(language.model, job.model.lora))
    position = Position(stage=0, epochs=0, steps=0, digests=digests)
    checkpoint = ray.train.get_checkpoint()
    with scratch_folder() as scratch:
        saved: Path | None = None
        if checkpoint is not None:
            saved = Path(checkpoint.to_directory(scratch / "checkpoint"))
            position = check_frozen(saved, digests)
            load_weights(model, saved)
        starts = _stage_starts(job, position)
        index = training_index(job.dataset, job.train)
        plans = [_plan(job, start, len(index)) for start in starts]
        source = StepSource(
            features=feature_source(
                job.embed,
                model=job.model,
                dataset=job.dataset,
                folders=job.towers,
                stores=job.stores(),
            ),
            index=index,
            plans=tuple(plans),
            turns_per_epoch=job.train.turns_per_epoch,
            site_cue=job.train.site_cue,
        )
        # one stream for all stages: the next one's data is ready before this one ends
        stream = iter_loaded_steps(source, loader_room(job.train, job.embed))
        for start, plan in zip(starts, plans, strict=True):
            steps = itertools.islice(stream, len(plan))
            moments = saved if start.epochs else None
            _run_stage(
                job, model, language.tokenizer, start, steps, plan.steps_per_epoch, moments, board
            )


def _stage_starts(job: TrainJob, position: "Position") -> list["Position"]:
    """Where each stage that is still to be done starts."""
    starts = []
    for index, stage in enumerate(job.train.stages):
        if index > position.stage:
            starts.append(position.model_copy(update={"stage": index, "epochs": 0, "steps": 0}))
        elif index == position.stage and position.epochs < stage.epochs:
            starts.append(position)
    return starts


def _plan(job: TrainJob, start: "Position", num_studies: int) -> "Plan":
    """This worker's steps of a stage."""
    import ray.train

    from sonoray.study.sample_order import Plan

    settings = job.train
    context = ray.train.get_context()
    return Plan(
        num_studies=num_studies,
        seed=settings.seed + 1000 * start.stage,  # stages see different orders
        studies_per_step=settings.studies_per_step,
        epochs=range(start.epochs, settings.stages[start.stage].epochs),
        rank=context.get_world_rank(),
        num_ranks=context.get_world_size(),
    )


def _run_stage(
    job: TrainJob,
    model: Any,  # noqa: ANN401 - LlavaUltra; torch stays out of this module's imports
    tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer
    start: "Position",
    stream: Iterator["LoadedStep"],
    per_epoch: int,
    saved: Path | None,
    board: "StepBoard",
) -> None:
    import ray.train
    import torch

    from llava_ultra.batch import collate_features, collate_texts
    from llava_ultra.parameters.precision import matmul_precision
    from llava_ultra.parameters.schedule import cosine_rate
    from sonoray_jobs.training.checkpoint import Position, place_moments, restore_moments

    settings = job.train
    stage = settings.stages[start.stage]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    before = per_epoch * sum(earlier.epochs for earlier in settings.stages[: start.stage])
    set_trainable(model, stage)
    engine, optimizer = build_engine(model, job.train, stage)
    place_moments(model, optimizer, start.steps)
    if saved is not None:
        restore_moments(model, saved)
    model.train()
    post = board.poster(f"train {stage.name}")
    context_length = job.model.language.context_length
    meter, done = _Meter({}), start.steps
    for loaded in stream:
        rate = cosine_rate(
            done, stage.epochs * per_epoch, settings.warmup_fraction, floor=_FLOOR_RATE
        )
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * rate
        torch.manual_seed(_step_seed(settings.seed, start.stage, done, rank))
        visual = collate_features(loaded.features)
        if settings.feature_noise:
            # of each study, so that it does not depend on how many workers share the step
            seeds = [
                _step_seed(settings.seed, start.stage, done, study) for study in loaded.step.studies
            ]
            visual = visual.with_noise(settings.feature_noise, seeds)
        text = collate_texts(tokenizer, loaded.rows, max_tokens=context_length)
        with matmul_precision(settings.matmul_precision, engine.device.type):
            output = engine(visual.to(engine.device), text.to(engine.device))
        # DeepSpeed takes the mean over ranks. Weighted by its number of answers, the loss is the
        # mean over the step's answers, however many ranks they are spread over.
        num_answers = float(len(loaded.rows))
        broken = not math.isfinite(float(output.loss.detach()))
        step_answers, num_broken = _sum_over_ranks([num_answers, float(broken)])
        if num_broken:  # on all ranks: DeepSpeed would skip the step and go on to the end
            raise diverged(stage, done + 1, stage.learning_rate * rate)
        with matmul_precision(settings.matmul_precision, engine.device.type):
            engine.backward(output.loss * (num_answers * world / step_answers))
        engine.step()
        done += 1
        if rank == 0:
            post(done, stage.epochs * per_epoch, float(output.loss.detach()))
        meter.add(
            {
                "loss": float(output.loss.detach()),
                **{name: float(loss) for name, loss in output.losses.items()},
            },
            weight=num_answers,
        )
        if loaded.step.index == per_epoch - 1:
            position = Position(
                stage=start.stage,
                epochs=loaded.step.epoch + 1,
                steps=done,
                digests=start.digests,
            )
            metrics = {
                **meter.means(),
                **connector_metrics(model),
                "learning_rate": rate * stage.learning_rate,
                "stage": position.stage,
                "epoch": position.epochs,
                "lora": int(stage.lora),
                "step": before + done,
            }
            _report(model, position, metrics, rank)
            meter = _Meter({})
    engine.destroy()


def diverged(stage: TrainStage, step: int, rate: float) -> JobFailedError:
    """The error of a loss that is not finite at a step of a stage."""
    return JobFailedError(
        f"the loss of stage {stage.name!r} is not finite at its step {step}, learning rate "
        f"{rate:.3g}; lower the learning_rate {stage.learning_rate:g} of this stage in train.stages"
    )


def set_trainable(model: Any, stage: TrainStage) -> None:  # noqa: ANN401 - LlavaUltra
    """Let connector and, where the stage says so, adapters learn; freeze everything else."""
    from llava_ultra.model import CONNECTOR_PARTS

    for name, parameter in model.named_parameters():
        connector = name.split(".")[0] in CONNECTOR_PARTS
        parameter.requires_grad = connector or (stage.lora and ".lora_" in name)


def build_engine(
    model: Any,  # noqa: ANN401 - LlavaUltra
    settings: TrainConfig,
    stage: TrainStage,
) -> tuple[Any, Any]:
    """Wrap the model in DeepSpeed; returns the engine and the basic optimiser (AdamW)."""
    import deepspeed
    import torch

    from llava_ultra.parameters.groups import decay_groups

    adamw = torch.optim.AdamW(
        decay_groups(model, weight_decay=settings.weight_decay), lr=stage.learning_rate
    )
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model,
        optimizer=adamw,
        config={
            "train_micro_batch_size_per_gpu": max(
                1, settings.studies_per_step // settings.num_workers
            ),
            "gradient_clipping": settings.clip_norm,
            "zero_optimization": {"stage": settings.zero_stage},
            # torch's own AdamW: DeepSpeed's fused one would compile a kernel per machine
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1_000_000_000,
        },
    )
    return engine, optimizer.optimizer


def _report(
    model: Any,  # noqa: ANN401 - LlavaUltra
    position: "Position",
    metrics: Mapping[str, float],
    rank: int,
) -> None:
    """Report an epoch with its checkpoint; collective."""
    import ray.train

    from sonoray_jobs.training.checkpoint import gather_state, write_checkpoint

    weights, moments = gather_state(model)
    if rank != 0:
        ray.train.report(dict(metrics))
        return
    with scratch_folder() as folder:
        saved = folder / "checkpoint"
        write_checkpoint(saved, weights, moments, position)
        ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(saved))


def _sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Sum each value over all ranks; collective."""
    import torch
    from ray.train.torch import get_device

    total = torch.tensor(values, dtype=torch.float64, device=get_device())
    torch.distributed.all_reduce(total)
    sums: list[float] = total.tolist()
    return sums


def connector_metrics(model: Any) -> dict[str, float]:  # noqa: ANN401 - LlavaUltra
    """The blend's alpha, where the fusion has one: its mean over channels or tokens."""
    alpha = getattr(model.fusion, "alpha", None)
    return {} if alpha is None else {"alpha": float(alpha.mean().detach())}


def _step_seed(*parts: int) -> int:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "little")
