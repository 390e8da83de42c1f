"""Conditions and orders over runs: numbers as numbers, unknown names refused."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.listing.recorded_run import RecordedRun
from sonoray_jobs.evaluation.listing.selection import (
    Condition,
    differing_settings,
    headline_metrics,
    require_columns,
    select,
    short_names,
)


def make(
    name: str,
    settings: dict[str, str] | None = None,
    metrics: dict[str, float | None] | None = None,
    kind: str = "training",
) -> RecordedRun:
    return RecordedRun(
        run_id=name * 8, name=name, kind=kind, state="finished", experiment="sonoray",
        started=datetime(2026, 1, 2, 3, tzinfo=UTC), ended=datetime(2026, 1, 2, 4, tzinfo=UTC),
        settings=settings or {}, metrics=metrics or {}, data={"dataset.name": "phantom"},
        tags={"mlflow.user": "li"},
    )  # fmt: skip


RUNS = [
    make("a", {"train.seed": "9", "model.lora.rank": "8"}, {"test/accuracy": 0.8}),
    make("b", {"train.seed": "10", "model.lora.rank": "8"}, {"test/accuracy": 0.9, "loss": 1.0}),
    make("c", {"train.seed": "2", "model.lora.rank": "16"}, {"test/accuracy": None}),
    make("d", kind="ablation"),
]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ([], "abcd"),
        (["test/accuracy > 0.8"], "b"),
        (["test/accuracy>=0.8"], "ab"),
        (["train.seed < 10"], "ac"),
        (["train.seed = 9"], "a"),
        (["train.seed = 9.0"], "a"),
        (["model.lora.rank != 8"], "cd"),
        (["kind = training", "model.lora.rank = 8"], "ab"),
        (["name ~ A"], "a"),
        (["user = li"], "abcd"),
        (["dataset = phantom"], "abcd"),
        (["minutes <= 59"], ""),
        (["minutes = 60"], "abcd"),
    ],
)
def test_a_condition_compares_numbers_as_numbers(where: Sequence[str], names: str) -> None:
    assert "".join(run.name for run in select(RUNS, map(Condition.read, where))) == names


@pytest.mark.parametrize(
    ("sort", "names"),
    [("", "abcd"), ("train.seed", "cabd"), ("-train.seed", "bacd"), ("-test/accuracy", "bacd")],
)
def test_runs_without_a_value_stand_last_in_both_directions(sort: str, names: str) -> None:
    assert "".join(run.name for run in select(RUNS, [], sort)) == names


@pytest.mark.parametrize(
    ("where", "sort", "message"),
    [
        ("test/acuracy > 0.8", "", "--where 'test/acuracy': .* did you mean test/accuracy"),
        ("kind = training", "-train.sed", "--sort 'train.sed': .* did you mean train.seed"),
    ],
)
def test_a_name_that_no_run_has_is_refused_with_close_ones(where, sort, message):
    with pytest.raises(ConfigError, match=message):
        select(RUNS, [Condition.read(where)], sort)


@pytest.mark.parametrize("text", ["", "loss", "> 3", "= x", "loss >> 3", "loss => 3", "loss == 3"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write KEY OP VALUE"):
        Condition.read(text)


def test_an_empty_list_refuses_no_column() -> None:
    require_columns([], ["loss"], "--columns")
    with pytest.raises(ConfigError, match="--columns 'lossy': no run has such a value"):
        require_columns(RUNS, ["lossy"], "--columns")


def test_settings_that_differ_are_those_of_trainings_with_seeds_behind() -> None:
    assert differing_settings(RUNS) == ["model.lora.rank", "train.seed"]
    other = make("e", {"train.seed": "9", "model.lora.rank": "8", "model.fusion.alpha": "token"})
    wanted = ["model.lora.rank", "train.seed", "model.fusion.alpha"]
    assert differing_settings([*RUNS, other]) == wanted
    assert differing_settings(RUNS[:1]) == []


def test_the_headlines_are_accuracies_then_losses() -> None:
    names = {"test-ab/accuracy": 1.0, "test/organ/accuracy": 1.0, "validation_loss": 1.0}
    found = headline_metrics([*RUNS, make("e", metrics=names | {"test/consistency": 1.0})])
    wanted = ["test/accuracy", "test-ab/accuracy", "test/consistency", "validation_loss", "loss"]
    assert found == wanted


def test_a_short_name_is_told_from_the_others_and_begins_with_no_number() -> None:
    keys = ["train.stages.0.epochs", "train.stages.1.epochs", "bootstrap.clip.seed", "train.seed"]
    assert short_names(keys) == ["stages.0.epochs", "stages.1.epochs", "clip.seed", "train.seed"]
    assert short_names(["train.seed", "model.lora.rank"]) == ["seed", "rank"]
