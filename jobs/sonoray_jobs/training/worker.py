"""What one Ray Train worker does: two stages of DeepSpeed steps over cached features.

Fusion and sampler learn in every stage, the LoRA adapters where the stage says so; the towers are
not even loaded, and the language model's own weights are frozen. What happens between the steps of
a stage is in `steps.stage_loop`; this module finds where to start, and builds what it needs. All
ranks make the same collective calls.

The driver and `sonoray describe` import this module too, so that all heavy libraries are imported
where they are used; tests hold the modules and the libraries that importing it loads.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_ultra.config import ModelConfig
from llava_ultra.recognition.bank import ClassBank
from sonoray.cluster.scratch import scratch_folder
from sonoray.config.load import validate_config
from sonoray.config.model import Config
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.road.train_config import TrainConfig, TrainStage
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.steps.stage_loop import StageLoop, StoppedError
from sonoray_jobs.training.steps.train_step import Stepper
from sonoray_jobs.training.steps.validation import ValidationTimes, validation_plan

if TYPE_CHECKING:
    from llava_ultra.recognition.pairs import BankTokens
    from sonoray.cluster.step_board import StepBoard
    from sonoray.features.store import FeatureStore
    from sonoray.study.sample_order import Plan
    from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
    from sonoray_jobs.training.saving.saver import Saver
    from sonoray_jobs.training.step_loader import LoadedStep


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
    bank: ClassBank | None = None
    """The classes that recognition is trained for, as the driver read them."""
    checkpoints: str
    """Where this training's checkpoints lie, a folder or a URI."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What is asked before a report."""

    def stores(self) -> "dict[str, FeatureStore]":
        """Open both feature stores."""
        from sonoray_jobs.outputs.stores import stores_of

        return stores_of(self.features, self.model, self.embed, self.fingerprints)


def train_loop_per_worker(config: dict[str, Any]) -> str:
    """Train from the newest checkpoint, or from the start, to the end of the last stage.

    Returns:
        Why it ended where a restart could not mend it; empty where all is well.
    """
    try:
        _train(validate_config(TrainJob, config["job"], "train job"), config["board"])
    except StoppedError as error:
        return str(error)
    return ""


def _train(job: TrainJob, board: "StepBoard") -> None:
    # DeepSpeed builds its CPU communication op with ninja, found on PATH only.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    import ray.train
    import torch
    from ray.train.torch import get_device

    from llava_ultra.language.decoder import checkpoint_activations, load_language
    from llava_ultra.language.lora import add_lora
    from llava_ultra.model import LlavaUltra
    from llava_ultra.parameters.products import check_precision
    from sonoray_jobs.towers.feature_source import feature_source
    from sonoray_jobs.training.checkpoint import check_frozen, load_weights
    from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
    from sonoray_jobs.training.saving.saver import Saver
    from sonoray_jobs.training.step_loader import StepSource
    from sonoray_jobs.training.stream import iter_loaded_steps, loader_room
    from sonoray_jobs.training.studies import training_index, validation_index

    if job.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    check_precision(job.train.precision, get_device().type, "train.precision")
    # More threads than the worker's share of the machine would wait for each other at every step.
    torch.set_num_threads(max(1, round(job.train.cpus_per_worker)))
    torch.manual_seed(job.train.seed)
    language = load_language(job.language)
    digests = {"language": language.digest, **job.fingerprints}
    model = LlavaUltra(
        job.model, add_lora(language.model, job.model.lora), precision=job.train.precision
    )
    if job.train.activation_checkpointing:  # peft would let frozen embeddings learn, asked before
        checkpoint_activations(language.model)
    position = Position(stage=0, epochs=0, steps=0, digests=digests)
    store = CheckpointStore(job.checkpoints)
    saver = None
    if ray.train.get_context().get_world_rank() == 0:
        saver = Saver(
            store=store,
            keep=job.train.keep_checkpoints,
            keep_best=job.train.keep == "best",
            say=board.say,
        )
    newest = _agree_on(lambda: _newest(store, board.say))
    with scratch_folder() as scratch:
        saved: Path | None = None
        if newest is not None:
            saved = store.fetch(newest, scratch)
            position = check_frozen(saved, digests)
            load_weights(model, saved)
            if saver is not None:
                board.say(f"goes on from {newest}, {_told(job, position)}")
            if position.reported:
                ray.train.report(dict(position.reported))
        index = training_index(job.dataset, job.train)
        judged = validation_index(job.dataset, job.train)
        source = StepSource(
            features=feature_source(
                job.embed,
                model=job.model,
                dataset=job.dataset,
                folders=job.towers,
                stores=job.stores(),
            ),
            index=index,
            plans=(),
            turns_per_epoch=job.train.turns_per_epoch,
            site_cue=job.train.site_cue,
            hold_out=job.train.hold_out,
            reports=job.model.recognition is not None,
            bank=job.bank,
            protocol=job.protocol,
            validation=judged,
        )
        while starts := _stage_starts(job, position, len(index)):
            plans = [_plans(job, start, len(index), len(judged or ())) for start in starts]
            # one stream for all stages: the next one's data is ready before this one ends
            stream = iter_loaded_steps(
                dataclasses.replace(source, plans=tuple(itertools.chain(*plans))),
                loader_room(job.train, job.embed),
            )
            for start, of_stage in zip(starts, plans, strict=True):
                position = _run_stage(
                    job,
                    model,
                    language.tokenizer,
                    start,
                    itertools.islice(stream, sum(map(len, of_stage))),
                    saved if start.steps else None,
                    saver,
                    board,
                    len(judged or ()),
                )
                if position.stopped:  # the stream goes on with a stage that is over
                    break
    if saver is not None:
        saver.close()


def _told(job: TrainJob, position: Position) -> str:
    stage = job.train.stages[position.stage]
    return f"after step {position.steps} of stage {stage.name!r}"


def _newest(store: "CheckpointStore", say: Callable[[str], None]) -> str | None:
    """Clear what killed writers left, and name the checkpoint to go on from."""
    orphans = store.sweep()
    if orphans:
        say(f"removed incomplete checkpoints: {', '.join(orphans)}")
    return store.newest(say)


def _agree_on(find: Callable[[], str | None]) -> str | None:
    """What rank 0 finds, on all ranks; collective."""
    import torch

    found = [find() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found)
    return found[0]


def _stage_starts(job: TrainJob, position: Position, num_studies: int) -> list[Position]:
    """Where each stage that is still to be done starts."""
    from sonoray.study.sample_order import num_steps

    per_epoch = num_steps(num_studies, job.train.studies_per_step)
    starts = []
    for index, stage in enumerate(job.train.stages):
        if index > position.stage:
            starts.append(
                Position(
                    stage=index,
                    epochs=0,
                    steps=0,
                    digests=position.digests,
                    steps_per_epoch=per_epoch,
                    metrics=position.metrics,
                    reported=position.reported,
                )
            )
        elif index == position.stage and not position.stopped:
            start = position
            if position.steps_per_epoch != per_epoch:  # another batch: the epoch begins again
                steps = position.epochs * per_epoch
                update = {"steps": steps, "steps_per_epoch": per_epoch, "sums": {}, "answers": 0}
                start = position.model_copy(update=update)
            if start.steps < stage.epochs * per_epoch:
                starts.append(start)
    return starts


def _plans(job: TrainJob, start: Position, num_studies: int, num_judged: int) -> "list[Plan]":
    """This worker's steps of a stage that are still to be done, and those that judge between."""
    import ray.train

    from sonoray.study.sample_order import Plan

    settings = job.train
    stage = settings.stages[start.stage]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    whole = Plan(
        num_studies=num_studies,
        seed=settings.seed + 1000 * start.stage,  # stages see different orders
        studies_per_step=settings.studies_per_step,
        epochs=range(stage.epochs),
        rank=rank,
        num_ranks=world,
        begin=start.steps,
    )
    if not num_judged:
        return [whole]
    judging = validation_plan(settings, num_judged, rank=rank, world=world)
    cuts = ValidationTimes.of(settings, start.steps_per_epoch, stage.epochs).after(start.steps)
    return [
        plan
        for begin, end in itertools.pairwise([start.steps, *cuts])
        for plan in (dataclasses.replace(whole, begin=begin, end=end), judging)
    ]


def _run_stage(
    job: TrainJob,
    model: Any,  # noqa: ANN401 - LlavaUltra; torch stays out of this module's imports
    tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer
    start: Position,
    stream: Iterator["LoadedStep"],
    saved: Path | None,
    saver: "Saver | None",
    board: "StepBoard",
    num_judged: int,
) -> Position:
    import ray.train

    from sonoray_jobs.training.checkpoint import place_moments, restore_moments
    from sonoray_jobs.training.steps.engine import build_engine, close_engine

    settings = job.train
    stage = settings.stages[start.stage]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    set_trainable(model, stage)
    _check_room(model, saver)
    engine = build_engine(model, settings, stage.learning_rate)
    place_moments(engine, start.steps - start.skipped)
    if saved is not None:
        restore_moments(engine, saved)
    model.train()
    stepper = Stepper(
        engine=engine,
        tokenizer=tokenizer,
        settings=settings,
        stage=start.stage,
        rank=rank,
        world=world,
        context_length=job.model.language.context_length,
        bank=_bank_tokens(job, tokenizer),
    )
    loop = StageLoop(
        stepper=stepper,
        stage=stage,
        optimizer=engine.basic_optimizer,
        position=start,
        steps_before=start.steps_per_epoch
        * sum(earlier.epochs for earlier in settings.stages[: start.stage]),
        saver=saver,
        validation=len(validation_plan(settings, num_judged, rank=rank, world=world))
        if num_judged
        else 0,
        post=board.poster(f"train {stage.name}"),
        say=board.say,
    )
    position = loop.run(stream)
    close_engine(engine)
    return position


def _bank_tokens(job: TrainJob, tokenizer: Any) -> "BankTokens | None":  # noqa: ANN401
    from llava_ultra.language.report_pairs import encode_bank

    settings = job.model.recognition
    if settings is None or job.bank is None:
        return None
    return encode_bank(tokenizer, job.bank, settings, job.model.language.context_length)


def _check_room(model: Any, saver: "Saver | None") -> None:  # noqa: ANN401 - LlavaUltra
    """Refuse to begin a stage whose checkpoints would not fit; collective.

    Raises:
        StoppedError: the message says what is missing.
    """
    from llava_ultra.model import trainable_parameters
    from llava_ultra.parameters.groups import whole_shape

    learned = trainable_parameters(model).values()
    size = 3 * sum(4 * whole_shape(each).numel() for each in learned)

    def look() -> str | None:
        assert saver is not None  # of rank 0, which looks
        free = saver.store.free_bytes()
        # one more than stay, while it is written
        needed = (saver.keep + 1) * size
        if free is None or free >= needed:
            return None
        return (
            f"{saver.keep + 1} checkpoints of {size / 1e6:,.1f} MB, which are there at once, do "
            f"not fit into {saver.store.root} ({free / 1e6:,.1f} MB free); make room, or lower "
            "train.keep_checkpoints"
        )

    if short := _agree_on(look):
        raise StoppedError(short)


def set_trainable(model: Any, stage: TrainStage) -> None:  # noqa: ANN401 - LlavaUltra
    """Let connector and, where the stage says so, adapters learn; freeze everything else."""
    from llava_ultra.model import LEARNED_PARTS

    for name, parameter in model.named_parameters():
        connector = name.split(".")[0] in LEARNED_PARTS
        parameter.requires_grad = connector or (stage.lora and ".lora_" in name)
