"""A finished road's errors, traced to towers, language model or what stands between."""

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.modes import error_sources

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_all_modes_stand_in_one_table(finished_road):
    given = {
        "workspace": finished_road.workspace,
        "road": finished_road.road,
        "dataset": "phantom",
        "run": finished_road.trained.name,
    }
    found = error_sources.run(**given, mode="all")
    closed = finished_road.evaluated.summary["closed"]
    assert set(found.values["topics"]) == set(closed)
    for topic, own in found.values["topics"].items():
        assert own["num_questions"] == closed[topic]["num_questions"]
        assert own["whole"]["value"] == pytest.approx(closed[topic]["accuracy"]["value"])
        assert own["num_language"] == own["num_questions"]  # every phantom study has a report
    assert found.values["levels"]["anatomy"]["num_questions"] > 0
    assert 0 <= found.values["share_named"] <= 1
    assert any("error comes from" in line for line in found.lines())

    told = error_sources.run(**given, mode="language")
    assert told.output.reused
    assert told.summary["num_silent"] == 0
    again = error_sources.run(**given, mode="all")
    assert again.output.reused
    moved = with_values(finished_road.road, {"modes.levels": {"organ": "modality"}})
    other = error_sources.run(**{**given, "road": moved}, mode="all")
    assert other.values["topics"]["organ"]["level"] == "modality"


def test_what_is_no_mode_is_refused(finished_road):
    given = {
        "workspace": finished_road.workspace,
        "road": finished_road.road,
        "dataset": "phantom",
    }
    with pytest.raises(ConfigError, match="--mode 'towers' is unknown; use one of tower"):
        error_sources.run(**given, mode="towers")
    with pytest.raises(ConfigError, match="leave out --mode all"):
        error_sources.run(**given, mode="all", gallery=3)
    road = with_values(finished_road.road, {"evaluate.topics": ["report"]})
    with pytest.raises(DataError, match="says its findings in words"):
        error_sources.run(**{**given, "road": road}, mode="language")
