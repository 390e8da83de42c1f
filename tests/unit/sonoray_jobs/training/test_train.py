import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llava_ultra.batch import collate_texts
from llava_ultra.config import AdaptiveSampling, KeepAllSampling, SamplingConfig
from llava_ultra.testing import tiny_config
from sonoray.errors import CheckpointError, ConfigError, DataError, JobFailedError
from sonoray.study.contract import iter_studies
from sonoray.tracking.connection import open_store
from sonoray.tracking.delivery import deliver, outbox_of
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.outputs import find as outputs
from sonoray_jobs.outputs import part_keys as parts_of
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig, TrainStage
from sonoray_jobs.towers import bootstrap, feature_source
from sonoray_jobs.towers.embed_pipeline import TowerActor, decode_piece
from sonoray_jobs.towers.embed_plan import make_plan
from sonoray_jobs.towers.learning_texts import conversations_of, make_tokenizer
from sonoray_jobs.training import train, train_checks
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.train import restored_interrupt, sole_training
from sonoray_jobs.training.unfinished import has_checkpoint

NOWHERE = "127.0.0.1:1"
"""Address of a Ray cluster that nobody could reach."""

HOLDER = """
import sys
from pathlib import Path
from sonoray_jobs.training.train import sole_training

with sole_training(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_training_that_runs_elsewhere_is_refused_until_its_process_is_gone(tmp_path):
    folder = tmp_path / "runs" / "phantom-0123"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(JobFailedError, match="'phantom-0123' is running in another process"),
            sole_training(folder),
        ):
            pass
        holder.kill()  # as a crash would
    with sole_training(folder):
        pass


def test_ctrl_c_is_what_it_was_though_the_training_changed_it_and_failed():
    before = signal.getsignal(signal.SIGINT)

    def fail():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise RuntimeError

    with pytest.raises(RuntimeError), restored_interrupt():
        fail()
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_signals_are_left_alone():
    done = []

    def work():
        with restored_interrupt():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def road_of(sampling: SamplingConfig, context_length: int) -> RoadConfig:
    model = tiny_config(sampling).model_dump()
    model["clip"]["image_size"] = 64  # 16 tokens an image
    model["language"]["context_length"] = context_length
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 8, "images": [2, 3]},
            "model": model,
            "bootstrap": {part: {"steps": 1, "batch_size": 2} for part in bootstrap.PARTS},
        }
    )


def make_parts_and_features(workspace: Workspace, road: RoadConfig) -> None:
    """Bootstrap and embed in this process."""
    dataset = workspace.dataset("phantom")
    for part in bootstrap.PARTS:
        stages = (parts_of.learning_of(part, road, dataset), parts_of.stage_of(part, road, dataset))
        bootstrap.make_part(part, road, dataset, stages, workspace.stages, lambda *_: None)
    parts = outputs.find_parts(workspace, road, "phantom")
    stores = outputs.open_stores(workspace, road, "phantom")
    folders = {tower: parts[tower].path for tower in TOWERS}
    stages = feature_source.tower_stages(road.embed, road.model, folders, stores)
    actor = TowerActor(*stages, batch_size=road.embed.batch_size)
    for piece in make_plan(dataset.path, stores, road.embed.images_per_file).pieces:
        looks = {stage.name: stage.look for stage in stages}
        size = road.embed.batch_size
        actor(decode_piece({"piece": piece}, folder=dataset.path, looks=looks, batch_size=size))


def test_what_does_not_fit_the_context_is_refused_before_any_worker_starts(tmp_path):
    """The reports fit with the one image that bootstrap was told of, and not with all of them."""
    workspace = Workspace.open(tmp_path)
    roomy = road_of(AdaptiveSampling(), 1024)
    ingest.run(workspace=workspace, road=roomy, dataset="phantom")
    studies = list(iter_studies(workspace.dataset("phantom").path, split="train"))
    tokenizer = make_tokenizer(roomy.model.language, studies)
    rows = [(0, *pair) for said in conversations_of(studies) for pair in said]
    longest = collate_texts(tokenizer, rows, max_tokens=1024).ids.shape[1]
    context = longest + roomy.model.num_tokens + 1
    make_parts_and_features(workspace, road_of(AdaptiveSampling(), context))
    road = road_of(KeepAllSampling(), context)
    message = rf"do not fit the context of {context} tokens with their images: \d+; the longest, '"
    with pytest.raises(DataError, match=message):
        train.run(workspace=workspace, road=road, dataset="phantom", address=NOWHERE)
    assert not workspace.runs.exists() or not list(workspace.runs.iterdir())
    trained = outputs.Trained(
        name="t", run_id="r", checkpoint=tmp_path / "c", metrics={}, reused=False
    )
    (turn, *_) = studies[0].turns
    long = dataclasses.replace(turn, question="?" * context)
    asked = [*studies[1:], dataclasses.replace(studies[0], turns=(long,))]
    tight = road_of(AdaptiveSampling(), context)
    made = outputs.Made(
        road=tight,
        dataset="phantom",
        output=workspace.dataset("phantom"),
        parts=outputs.find_parts(workspace, tight, "phantom"),
        trained=trained,
    )
    with pytest.raises(DataError, match=f"images: 1; the longest, '{studies[0].study_id}'"):
        evaluate._answer(workspace, made, asked, NOWHERE)


def test_workers_without_a_study_in_some_step_are_refused_before_anything_starts():
    settings = TrainConfig(studies_per_step=8, num_workers=8)
    train_checks.check_steps(16, settings)
    with pytest.raises(ConfigError, match="9 studies in steps of at most 8 leave 4 to a step"):
        train_checks.check_steps(9, settings)


def test_what_a_killed_process_left_of_a_finished_training_is_cleared(tmp_path, tiny_road):
    work = tmp_path / "phantom-1"
    position = Position(stage=0, epochs=0, steps=1, digests={})
    CheckpointStore(str(work)).write(position, {})
    with train.sole_training(work):  # held by whoever ends it
        train._tidy(work, tiny_road)
    assert has_checkpoint(work)
    train._tidy(work, tiny_road)
    assert not has_checkpoint(work)


def test_what_a_process_killed_at_the_end_left_unsent_is_sent(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.open(tmp_path)
    store = open_store(workspace)
    with held_run(store, workspace.runs, "phantom-0", config={"a": 1}) as run_id:
        outbox = outbox_of(workspace.runs, "phantom-0")
    outbox.add({"kind": "begin", "experiment": "sonoray", "title": "t", "time_ms": 1})
    deliver(outbox, store)
    assert store.client.get_run(run_id).info.status == "RUNNING"
    outbox.add({"kind": "end", "status": "FINISHED", "time_ms": 2})

    train._deliver_rest(workspace, "phantom-0", "http://127.0.0.1:1")  # away: it waits on
    assert outbox.num_waiting() == 1
    assert "still wait" in caplog.text
    train._deliver_rest(workspace, "phantom-0", None)
    assert store.client.get_run(run_id).info.status == "FINISHED"
    assert outbox.num_waiting() == 0


def test_a_training_ends_with_its_last_checkpoint_or_with_the_best_of_its_last_stage(
    tmp_path, caplog
):
    store = CheckpointStore(str(tmp_path))
    found = ((0, 9, 0.1), (1, 1, 3.0), (1, 2, 2.0), (1, 3, 2.5))
    for stage, steps, loss in found:
        position = Position(stage=stage, epochs=0, steps=steps, digests={}, validation_loss=loss)
        store.write(position, {"weights": b"w"})
    stages = [
        TrainStage(name=name, epochs=1, learning_rate=1, lora=name == "b") for name in ("a", "b")
    ]
    best = TrainConfig(stages=stages, keep="best", validate_every="epoch")
    for settings, steps in ((best, 2), (best.model_copy(update={"keep": "last"}), 3)):
        folder, position = train._outcome(store, settings)
        assert position.steps == steps
        assert folder == tmp_path / f"checkpoint_01_{steps:08}"
    (tmp_path / "checkpoint_01_00000002" / "weights").write_bytes(b"v")
    assert train._outcome(store, best)[1].steps == 3  # the next best
    assert "checkpoint_01_00000002 is refused and removed, the next best one is used" in caplog.text
    for name in store.names():
        (tmp_path / name / "weights").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is left"):
        train._outcome(store, best)


def test_a_dataset_that_cannot_judge_a_training_is_said_before_it_starts(tmp_path, caplog):
    workspace = Workspace.open(tmp_path)
    splits = {"train": 0.9, "validation": 0.0, "test": 0.1}
    road = RoadConfig.model_validate(
        {"phantom": {"num_patients": 4, "image_size": 64}, "ingest": {"splits": splits}}
    )
    folder = ingest.run(workspace=workspace, road=road, dataset="phantom").path
    folder = Path(folder)
    train_checks.warn_unjudged(folder, "phantom", TrainConfig())
    assert not caplog.text
    train_checks.warn_unjudged(folder, "phantom", TrainConfig(validate_every="epoch"))
    assert "dataset phantom has fewer than 2 validation studies" in caplog.text
