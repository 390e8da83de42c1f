import math

from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.tracking.params import (
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    flatten_params,
    not_finite,
    scalar_metrics,
)


def test_flatten_params_dots_tables_and_writes_lists_as_json() -> None:
    stages = [{"epochs": 2, "lora": False}, {"epochs": 5}]
    values = {
        "train": {"lr": 1e-3, "names": ["a", "b"], "note": "", "stages": stages},
        "x": None, "name": "乳腺", "nul": "a\0b",
    }  # fmt: skip
    assert flatten_params(values) == {
        "train.lr": "0.001",
        "train.names": '["a", "b"]',
        "train.stages.0.epochs": "2",
        "train.stages.0.lora": "false",
        "train.stages.1.epochs": "5",
        "nul": "a\\0b",
        "train.note": '""',
        "x": "null",
        "name": "乳腺",
    }


def test_flatten_params_keeps_limits_and_two_long_names_apart() -> None:
    long = "k" * 400
    flat = flatten_params({f"{long}1": "v" * 7000, f"{long}2": 1})
    assert len(flat) == 2
    assert max(map(len, flat)) == MAX_KEY_LENGTH


def test_a_value_that_is_too_long_is_told_by_its_hash_and_not_cut() -> None:
    flat = flatten_params({"a": "v" * 7000, "b": "v" * 6999 + "w", "c": "v" * MAX_VALUE_LENGTH})
    assert flat["a"].endswith("7,000 characters, whole in the file of the configuration")
    assert flat["a"] != flat["b"]
    assert flat["c"] == "v" * MAX_VALUE_LENGTH


names = st.text(st.characters(categories=["L", "N"], include_characters="_-. :(*\"'"), min_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text("ab乳", min_size=1).map("x".__add__), json_values, max_size=4))
def test_flattened_params_are_accepted_by_mlflow(values: dict[str, object]) -> None:
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, _validate_param

    assert MAX_PARAM_VAL_LENGTH == MAX_VALUE_LENGTH
    for key, value in flatten_params(values).items():
        _validate_param(key, value)


def test_scalar_metrics_keeps_numbers_only() -> None:
    values = {"loss": 1, "test": {"auc": 0.5, "note": "x", "gap": None}}
    assert scalar_metrics(values) == {"loss": 1.0, "test.auc": 0.5}


def test_what_is_not_finite_is_no_metric_and_is_named() -> None:
    values = {"loss": math.inf, "test": {"auc": math.nan, "hit": 0.5}, "low": -math.inf}
    assert scalar_metrics(values) == {"test.hit": 0.5}
    assert not_finite(values) == ["loss", "test.auc", "low"]
