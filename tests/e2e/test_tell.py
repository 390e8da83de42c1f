"""A finished road's patient columns, in front of its questions."""

import pytest

from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.telling import tell_columns

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_columns_are_told_beside_plain_prompts_and_others(finished_road):
    road = with_values(
        finished_road.road,
        {
            "risk.columns": ["organ"],
            "tell.names": {"organ": "器官"},
            "tell.values": {"organ": {"liver": "肝脏"}},
        },
    )
    given = {
        "workspace": finished_road.workspace,
        "road": road,
        "dataset": "phantom",
        "run": finished_road.trained.name,
    }
    found = tell_columns.run(**given)
    closed = finished_road.evaluated.summary["closed"]
    for topic, own in found.values["topics"].items():
        if topic in closed:
            assert own["num_questions"] == closed[topic]["num_questions"]
            plain = own["ways"]["plain"]["accuracy"]["value"]
            assert plain == pytest.approx(closed[topic]["accuracy"]["value"])
    assert found.values["leaks"]["organ"] == {"organ": "is 'organ' itself"}
    told = (found.output.path / "example.txt").read_text(encoding="utf-8")
    assert "患者资料：器官" in told
    assert "患者资料" not in str([*found.lines(), found.to_json()])
    assert any("told minus other" in line for line in found.lines())
    assert tell_columns.run(**given).output.reused
