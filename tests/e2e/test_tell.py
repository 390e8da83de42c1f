"""A finished road's patient columns: in a risk model, and in front of its questions."""

import pytest

from sonoray.errors import DataError
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.structured import predict_risk
from sonoray_jobs.evaluation.structured.risk_stage import MODEL
from sonoray_jobs.evaluation.telling import tell_columns

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_columns_are_told_beside_plain_prompts_and_others(finished_road):
    road = with_values(
        finished_road.road,
        {
            "risk.columns": ["side", "size_mm"],
            "tell.names": {"side": "部位"},
            "tell.values": {"side": {"left": "左侧"}},
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
    assert found.values["leaks"]["side"] == {"side": "is 'side' itself"}
    assert "患者资料：" in found.values["example"]
    assert any("told minus other" in line for line in found.lines())
    assert tell_columns.run(**given).output.reused


def test_a_risk_is_kept_and_explained(finished_road):
    given = {"workspace": finished_road.workspace, "dataset": "phantom"}
    road = with_values(finished_road.road, {"risk.columns": ["organ", "size_mm", "margin"]})
    found = predict_risk.run(**given, road=road)
    assert (found.output.path / MODEL).is_file()
    assert found.values["num_positive"] > 0
    assert [line for line in found.lines() if line.startswith("missed: ")]
    study = next(iter(found.output.path.glob("predictions.parquet")))
    import pyarrow.parquet as pq

    row = pq.read_table(study).to_pylist()[0]
    told = predict_risk.run(**given, road=road, study=row["study_id"])
    assert told.output.reused
    assert told.explained["risk"] == pytest.approx(row["risk"])
    own = {name: each["contribution"] for name, each in told.explained["columns"].items()}
    assert own == pytest.approx(dict(row["contributions"]))
    with pytest.raises(DataError, match="study 'nobody' is none of"):
        predict_risk.run(**given, road=road, study="nobody")
    leak = with_values(finished_road.road, {"risk.columns": ["kind"]})
    with pytest.raises(DataError, match="column 'kind' alone tells 'pathology'"):
        predict_risk.run(**given, road=leak)
