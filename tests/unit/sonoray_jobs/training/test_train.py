import dataclasses
import signal
import subprocess
import sys
import threading

import pytest

from llava_ultra.batch import collate_texts
from llava_ultra.config import AdaptiveSampling, KeepAllSampling, SamplingConfig
from llava_ultra.testing import tiny_config
from sonoray.errors import ConfigError, DataError, JobFailedError
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.outputs import find as outputs
from sonoray_jobs.outputs import part_keys as parts_of
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.towers import bootstrap, feature_source
from sonoray_jobs.towers.embed_pipeline import TowerActor, decode_piece
from sonoray_jobs.towers.embed_plan import make_plan
from sonoray_jobs.towers.learning_texts import conversations_of, make_tokenizer
from sonoray_jobs.training import train
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
        sizes = {stage.name: stage.image_size for stage in stages}
        size = road.embed.batch_size
        actor(decode_piece({"piece": piece}, folder=dataset.path, sizes=sizes, batch_size=size))


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
    train.check_steps(16, settings)
    with pytest.raises(ConfigError, match="9 studies in steps of at most 8 leave 4 to a step"):
        train.check_steps(9, settings)


def test_what_a_killed_process_left_of_a_finished_training_is_cleared(tmp_path, tiny_road):
    work = tmp_path / "phantom-1"
    (work / "checkpoint_000001").mkdir(parents=True)
    with train.sole_training(work):  # held by whoever ends it
        train._tidy(work, tiny_road)
    assert has_checkpoint(work)
    train._tidy(work, tiny_road)
    assert not has_checkpoint(work)
