"""Linear probes of a finished road's towers, beside the answers of its model."""

import csv

import pytest

from sonoray.errors import DataError
from sonoray.study.contract import iter_studies
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.probing import probe

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_probes_answer_what_the_model_is_asked(finished_road):
    given = {
        "workspace": finished_road.workspace,
        "road": finished_road.road,
        "dataset": "phantom",
        "run": finished_road.trained.name,
    }
    probed = probe.run(**given)
    folder = finished_road.workspace.dataset("phantom").path
    asked = [turn for study in iter_studies(folder, split="test") for turn in study.turns]
    closed = {turn.topic for turn in asked if turn.options}
    assert set(probed.values["topics"]) | set(probed.values["left_out"]) == closed
    assert probed.values["topics"]
    for topic, each in probed.values["topics"].items():
        expected = finished_road.evaluated.summary["closed"][topic]
        assert each["num_questions"] == expected["num_questions"]
        assert each["model"]["accuracy"]["value"] == pytest.approx(expected["accuracy"]["value"])
        assert each["lost"]["accuracy"]["value"] == pytest.approx(
            each["model"]["accuracy"]["value"] - each["both"]["accuracy"]["value"]
        )
    with (probed.output.path / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(probed.values["suspects"].values())
    assert all(row["answer"] != row["suggested"] for row in rows)
    assert any("model, AUC" in line for line in probed.lines())
    again = probe.run(**given)
    assert again.output.reused
    assert again.values == probed.values

    alone = probe.run(**{**given, "run": None})
    assert not alone.output.reused
    topic = next(iter(alone.values["topics"]))
    assert "model" not in alone.values["topics"][topic]
    assert alone.values["topics"][topic]["sam"] == probed.values["topics"][topic]["sam"]


def test_what_cannot_be_probed_is_refused(finished_road):
    given = {"workspace": finished_road.workspace, "dataset": "phantom"}
    with pytest.raises(DataError, match="choose validation or test"):
        probe.run(**given, road=finished_road.road, split="train")
    road = with_values(finished_road.road, {"evaluate.topics": ["patholgy"]})
    with pytest.raises(DataError, match=r"evaluate.topics \['patholgy'\] are asked of no study"):
        probe.run(**given, road=road)
    road = with_values(finished_road.road, {"evaluate.topics": ["report"]})
    with pytest.raises(DataError, match="no closed question is asked of the train studies"):
        probe.run(**given, road=road)
