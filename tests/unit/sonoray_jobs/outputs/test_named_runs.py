"""A training by its name: which one is meant, with its settings, whatever today's code is."""

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.stages import Stage, run_stage
from sonoray.tracking.run_id import RunIdFile
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import training_stage
from sonoray_jobs.outputs.named_runs import find_run, known_runs, made_by, match_run, road_of_run
from sonoray_jobs.outputs.part_keys import PARTS
from sonoray_jobs.outputs.run_title import run_title
from sonoray_jobs.road.config import RoadConfig, load_road

ROAD = load_road("tiny", ["train.num_workers=1", "model.lora.rank=5"])


def make(workspace, name, config=None, inputs=(), summary=None):
    stage = Stage(name=name, config=config or {}, inputs=inputs)
    return run_stage(stage, workspace.stages, lambda folder: summary or {})


@pytest.fixture
def workspace(tmp_path):
    """Two finished trainings of one dataset, and one that was begun."""
    workspace = Workspace.open(tmp_path)
    dataset = make(workspace, "ingest-phantom")
    workspace.point_dataset("phantom", dataset)
    parts = {
        part: make(workspace, f"bootstrap-{part}", summary={"fingerprint": part * 20})
        for part in PARTS
    }
    for run_id, road in (("a0" * 16, ROAD), ("ab" * 16, with_values(ROAD, {"train.seed": 1}))):
        stage = training_stage(road, dataset, parts)
        name = stage.path(tmp_path).name.removeprefix("train-")
        summary = {
            "name": name, "run_id": run_id, "metrics": {}, "evaluate": {}, "dataset": "phantom",
            "road": road.model_dump(mode="json"), "title": run_title(road, "phantom", name),
        }  # fmt: skip
        run_stage(stage, workspace.stages, lambda folder, own=summary: own)
    (workspace.runs / "phantom-begun").mkdir(parents=True)
    RunIdFile(workspace.runs, "phantom-begun").write("f" * 32)
    return workspace


def test_a_training_is_found_by_any_of_its_names_or_their_beginning(workspace):
    first, second = (run for run in known_runs(workspace) if run.folder)
    for run in (first, second):
        for wanted in (run.name, run.name[:14], run.run_id, run.run_id[:2], run.title):
            assert match_run(known_runs(workspace), wanted) == run
            assert find_run(workspace, wanted).trained.name == run.name
    assert find_run(workspace, "a0").trained.run_id == "a0" * 16


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("kidney", ["no training or MLflow run 'kidney'", "phantom-begun"]),
        ("", ["no training or MLflow run ''"]),
        ("phantom-", ["fits several trainings", "say more"]),
        ("a", ["fits several trainings"]),
        ("phantom-begun", ["is not finished", "sonoray train"]),
    ],
)
def test_what_no_finished_training_answers_to_is_told_with_those_there_are(
    workspace, wanted, words
):
    with pytest.raises(DataError) as caught:
        find_run(workspace, wanted)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_it_stands_on_what_it_was_trained_with_whatever_todays_code_is(workspace, monkeypatch):
    monkeypatch.setattr("sonoray.stages.code_digest", lambda *entries: "other code")
    made = find_run(workspace, "a0")
    assert made.road == ROAD.model_copy(update={"dataset": "phantom"})
    assert made.output.key == workspace.dataset("phantom").key
    assert {part: found.path.name.split("-")[1] for part, found in made.parts.items()} == {
        part: part for part in PARTS
    }
    assert made.located.fingerprints == {"clip": "clip" * 20, "sam": "sam" * 20}
    with pytest.raises(DataError, match="no bootstrap"):
        made_by(workspace, ROAD, "phantom", None)


def test_settings_of_later_steps_may_change_and_those_of_the_training_may_not(workspace):
    road = road_of_run(workspace, "a0", ["evaluate.max_tokens=7", "train.num_workers=2"])
    assert (road.evaluate.max_tokens, road.train.num_workers) == (7, 2)
    assert road.model.lora.rank == 5
    assert made_by(workspace, road, "phantom", "a0").road.evaluate.max_tokens == 7
    with pytest.raises(ConfigError, match=r"--set model\.lora\.rank would be another training"):
        road_of_run(workspace, "a0", ["model.lora.rank=6"])
    with pytest.raises(ConfigError, match="dataset would be another"):
        road_of_run(workspace, "a0", ["dataset=other"])
    with pytest.raises(ConfigError, match=r"--set evaluate\.max_token=7"):
        road_of_run(workspace, "a0", ["evaluate.max_token=7"])
    with pytest.raises(ConfigError, match="sonoray validate MODEL --dataset other"):
        made_by(workspace, road, "other", "a0")


def test_a_dataset_that_was_ingested_anew_or_a_part_that_is_gone_is_told(workspace):
    part = next(workspace.stages.glob("bootstrap-clip-*"))
    part.rename(part.with_name("elsewhere"))
    with pytest.raises(DataError, match="the clip part of training"):
        find_run(workspace, "a0")
    part.with_name("elsewhere").rename(part)
    workspace.point_dataset("phantom", make(workspace, "ingest-phantom", config={"seed": 1}))
    with pytest.raises(DataError, match="ingested anew"):
        find_run(workspace, "a0")


def test_a_training_of_before_settings_were_kept_asks_for_them(workspace):
    summary = {"name": "phantom-old", "run_id": "0" * 32, "metrics": {}}
    make(workspace, "train-phantom", config={"old": 1}, summary=summary)
    with pytest.raises(DataError, match="give its --config and --set"):
        find_run(workspace, "phantom-old")


@pytest.mark.parametrize(
    ("config", "overrides", "title"),
    [
        ("tiny", [], "phantom tiny 3f2ab1"),
        ("tiny", ["model.lora.rank=64"], "phantom tiny lora.rank=64 3f2ab1"),
        ("tiny", ["evaluate.max_tokens=7"], "phantom tiny 3f2ab1"),
        ("busbra", [], "phantom busbra 3f2ab1"),
        (
            "tiny",
            ["train.seed=1", "train.stages.1.epochs=3", "model.fusion.type=concat"],
            "phantom tiny fusion.type=concat stages.1.epochs=3 train.seed=1 3f2ab1",
        ),
        (
            "tiny",
            ['model.objectives=[{type="answer"}]'],
            "phantom tiny model.objectives 3f2ab1",
        ),
        (
            "tiny",
            ["train.seed=1", "train.clip_norm=2", "train.weight_decay=0.5", "model.lora.rank=3"],
            "phantom tiny lora.rank=3 train.weight_decay=0.5 train.clip_norm=2.0 and 1 more 3f2ab1",
        ),
    ],
)  # fmt: skip
def test_a_title_says_what_differs(config, overrides, title):
    assert run_title(load_road(config, overrides), "phantom", "phantom-3f2ab1c2d3e4") == title


def test_a_road_of_ones_own_is_called_after_its_file(tmp_path):
    file = tmp_path / "肝 2024.toml"
    file.write_text('extends = "tiny"\n[train]\nseed = 3\n', encoding="utf-8")
    road = load_road(str(file))
    assert road.name == "肝-2024"
    assert run_title(road, "liver", "liver-3f2ab1c2d3e4") == "liver 肝-2024 3f2ab1"
    file.write_text('name = "kidney"\nextends = "tiny"\n', encoding="utf-8")
    assert load_road(str(file)).name == "kidney"
    assert run_title(RoadConfig(), "d", "d-3f2ab1c2d3e4") == "d 3f2ab1"
