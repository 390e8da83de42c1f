"""A finished training under other conditions: the clean one is what `evaluate` says."""

import json

import pyarrow.parquet as pq
import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.tracking.connection import open_store
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.robustness import assess

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KINDS = ("gain", "tint", "wrong-claim")
STRENGTHS = (0.5, 1.0)


@pytest.fixture(scope="module")
def given(finished_road):
    return {
        "workspace": finished_road.workspace,
        "road": finished_road.road,
        "dataset": "phantom",
        "kinds": KINDS,
        "strengths": STRENGTHS,
        "references": 4,
    }


@pytest.fixture(scope="module")
def judged(given):
    return assess.run(**given)


def rows_of(output):
    return pq.read_table(output.path / "predictions.parquet").to_pylist()


def test_clean_answers_are_those_of_the_evaluation(judged, finished_road):
    closed = [row for row in rows_of(finished_road.evaluated.output) if row["task"] == "closed"]
    clean = [
        row for row in rows_of(judged.output) if row["condition"] == 0 and not row["is_calibrated"]
    ]
    assert len(clean) == len(closed) == judged.values["num_questions"]

    def by_question(rows):
        return {(row["study_id"], row["question"]): row for row in rows}

    expected = by_question(closed)
    for question, row in by_question(clean).items():
        assert row["answer"] == expected[question]["answer"]
        assert row["selected"] == expected[question]["selected"]
        scores, others = (json.loads(each["option_scores"]) for each in (row, expected[question]))
        assert scores == pytest.approx(others, abs=1e-4)
    whole = finished_road.evaluated.summary["all_closed"]["accuracy"]
    assert judged.values["clean"]["accuracy"]["value"] == pytest.approx(whole["value"])


def test_every_question_is_asked_under_every_condition_and_each_changes_something(judged):
    rows = rows_of(judged.output)
    num_conditions = 1 + len(KINDS) * len(STRENGTHS)
    assert len(rows) == 2 * num_conditions * judged.values["num_questions"]
    scores = {}
    for row in rows:
        key = row["study_id"], row["question_number"]
        scores.setdefault((row["condition"], row["is_calibrated"]), {})[key] = row["option_scores"]
    assert all(len(each) == judged.values["num_questions"] for each in scores.values())
    for number in range(1, num_conditions):
        assert scores[number, False] != scores[0, False]
    recognised = {number for row in rows for number in row["recognised"]}
    assert recognised <= set(range(5))  # clean, gain and tint; a wording is nothing to the towers
    assert len(recognised) > 1


def test_the_report_is_in_mlflow_and_a_second_run_reads_it(judged, given):
    client = open_store(given["workspace"]).client
    run = client.get_run(judged.values["run_id"])
    (name,) = {key.split("/")[0] for key in run.data.metrics if key.startswith("robustness-test-")}
    assert run.data.metrics[f"{name}/clean/accuracy"] == judged.values["clean"]["accuracy"]["value"]
    artifacts = {
        item.path.rpartition("/")[2]
        for item in client.list_artifacts(run.info.run_id, f"robustness/{name}")
    }
    assert artifacts == {"robustness.md", "robustness.json", "robustness.png"}
    again = assess.run(**given)
    assert again.output.reused
    assert again.values == judged.values
    assert any(line.startswith("wrong-claim") for line in again.lines())


def test_one_reference_is_refused(given):
    with pytest.raises(ConfigError, match="--references 1 shows no spread"):
        assess.run(**{**given, "references": 1})


def test_topics_without_a_closed_question_are_refused(given):
    road = with_values(given["road"], {"evaluate.topics": ["report"]})
    with pytest.raises(DataError, match="this counts right options"):
        assess.run(**{**given, "road": road})
