"""What became of a sweep: order, texts and Optuna's pictures of made-up trials."""

import json

import matplotlib
import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.sweeping.search import Search
from sonoray_jobs.evaluation.sweeping.space import read_fields
from sonoray_jobs.evaluation.sweeping.swept import (
    FAILED,
    FINISHED,
    STOPPED,
    Swept,
    Trial,
    draw,
    ordered,
)
from sonoray_jobs.evaluation.sweeping.trial import objective_of, shown_point, trial_number
from sonoray_jobs.road.config import load_road

ROAD = load_road("tiny", ["train.validate_every=epoch"])
OVER = ("train.stages.1.learning_rate:log 1e-4..1e-2", "model.lora.rank:[4, 8]")
FIELDS = read_fields(OVER, ROAD)


def make(number: int, state: str = FINISHED, objective: float | None = 1.0) -> Trial:
    point = {
        "train.stages.1.learning_rate": 10.0 ** -(2 + number % 3 * 0.5),
        "model.lora.rank": str(4 + 4 * (number % 2)),
    }
    return Trial(
        number=str(number), point=point, settings=shown_point(FIELDS, point), state=state,
        objective=objective, step=12, training=f"phantom-{number}", run_id="", reason="it broke",
    )  # fmt: skip


@pytest.fixture
def swept(tmp_path):
    search = Search(dataset="phantom", over=OVER)
    trials = [
        make(0, objective=2.0), make(1, STOPPED, 0.5), make(2, FAILED, None),
        make(3, objective=1.25), make(4, objective=3.0), make(5, objective=1.5),
    ]  # fmt: skip
    return Swept(
        name="sweep-phantom-0",
        search=search,
        fields=FIELDS,
        trials=ordered(trials, search.direction),
        parent_run_id="f" * 32,
        folder=tmp_path,
    )


def test_the_best_finished_trial_is_first_and_what_did_not_finish_last(swept):
    assert "".join(trial.number for trial in swept.trials) == "350412"
    assert swept.best.number == "3"
    assert "".join(each.number for each in ordered(swept.trials, "max")) == "405312"


def test_lines_name_the_best_with_its_settings_and_each_failure(swept):
    lines = swept.lines()
    assert "best: trial 3, --set train.stages.1.learning_rate=0.01 --set model.lora.rank=8" in lines
    assert "on the test split, once: sonoray evaluate --run phantom-3" in lines
    assert "trial 2 failed: it broke" in lines
    assert swept.exit_code == 1


def test_the_report_has_table_json_and_both_pictures(swept):
    def style():
        parameters = matplotlib.rcParams.items()
        return {key: value for key, value in parameters if key.startswith(("axes.", "grid."))}

    before = style()
    swept.write()
    assert style() == before  # what others draw looks as it did
    assert [path.name for path in swept.files] == [
        "sweep.md", "sweep.json", "parallel_coordinates.png", "importance.png",
    ]  # fmt: skip
    assert json.loads((swept.folder / "sweep.json").read_text()) == swept.to_json()
    assert swept.search.command in (swept.folder / "sweep.md").read_text()
    assert all(path.stat().st_size > 3000 for path in swept.files[2:])


def test_where_little_finished_only_what_can_be_drawn_is_drawn(tmp_path):
    search = Search(dataset="phantom", over=OVER)
    assert draw(search, FIELDS, [make(0), make(1)], tmp_path) == ["parallel_coordinates.png"]
    assert draw(search, FIELDS, [make(0, FAILED, None)], tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bayes"}, "--search 'bayes' is unknown; use optuna, random, grid"),
        ({"mode": "least"}, "--mode 'least' must be min or max"),
        ({"metric": "loss"}, "--metric 'loss' must be validation_loss or validation_hit"),
        ({"metric": "validation/accuracy", "stop_early": True}, "--stop-early needs a metric"),
        ({"method": "grid"}, "learning_rate is a range"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Search(dataset="phantom", over=OVER, **options).fields(ROAD)


def test_a_metric_of_validations_needs_validations():
    with pytest.raises(ConfigError, match="add --set train"):
        Search(dataset="phantom", over=OVER).fields(load_road("tiny", []))


def test_the_name_is_the_sweeps_and_the_command_asks_for_it_again():
    search = Search(dataset="phantom", over=OVER, stop_early=True)
    assert search.name(ROAD) == Search(dataset="phantom", over=OVER, stop_early=True).name(ROAD)
    names = {
        Search(dataset="phantom", over=OVER, **changed).name(ROAD)
        for changed in ({}, {"trials": 3}, {"seed": 1}, {"metric": "validation_hit"})
    }
    assert len(names) == 4
    assert "--over 'train.stages.1.learning_rate:log 1e-4..1e-2'" in search.command
    assert "--stop-early --grace 2" in search.command
    assert search.num_trials(FIELDS) == 20
    grid = ("model.lora.rank:[4, 8]", "train.seed:[0, 1, 2]")
    chosen = Search(dataset="phantom", over=grid, method="grid")
    assert chosen.num_trials(chosen.fields(ROAD)) == 6


def test_a_metric_that_there_is_not_names_those_that_there_are():
    assert objective_of({"a": 1, "b": 2.5}, "b") == 2.5
    with pytest.raises(ConfigError, match="--metric 'c' is none of a, b"):
        objective_of({"a": 1, "b": 2}, "c")


@pytest.mark.parametrize(
    ("folder", "number"),
    [
        ("tune/run_trial_bfd3509c_1_model_lora_rank=2,train_seed=3_2026-11-29_09-30-34", "1"),
        ("tune/run_trial_12345678_12_train_seed=3_2026-11-29_09-30-34", "12"),
        ("tune/run_trial_ab12c_00003_4_train_seed=3_2026-11-29_09-30-34", "4"),
        ("tune/other", "?"),
    ],
)
def test_a_trial_has_the_number_that_ray_tune_gave_it(folder, number):
    assert trial_number(folder) == number
