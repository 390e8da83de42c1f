"""Which columns are told of which question."""

from dataclasses import replace

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.structured.patient_columns import read_columns
from sonoray_jobs.evaluation.telling.teller import check_names, make_teller
from sonoray_jobs.road.config import load_road
from sonoray_jobs.road.risk_config import TellConfig


@pytest.mark.parametrize("is_asked_in_training", [True, False])
@pytest.mark.parametrize("hold_out", [{}, {"pathology": ("malignant",)}])
def test_a_column_that_tells_a_class_that_was_never_seen_is_not_told(
    tmp_path, training, tested, hold_out, is_asked_in_training
):
    seen = training
    if not is_asked_in_training:
        seen = [replace(each, turns=each.turns[1:]) for each in training]
    road = load_road("tiny")
    columns = read_columns([*seen, *tested], None, road.risk, "d")
    teller, leaks = make_teller(tmp_path, road, "d", "test", None, columns, seen, tested, hold_out)
    assert set(leaks["pathology"]) == {"pathology", "histology"}
    assert teller.of_topic["pathology"] == ["device", "side", "age"]
    assert leaks["side"] == {"side": "is 'side' itself"}


@pytest.mark.parametrize("settings", [{"names": {"bmi": "x"}}, {"values": {"bmi": {"a": "b"}}}])
def test_a_name_of_no_column_is_refused(training, settings):
    columns = read_columns(training, None, load_road("tiny").risk, "d")
    check_names(TellConfig(names={"age": "年龄", "room": "房间"}), columns)
    with pytest.raises(ConfigError, match=r"'bmi', which is not there; there are age, device"):
        check_names(TellConfig(**settings), columns)
