"""A student of a finished road's model: what it is taught, how it is judged."""

import pytest

from llava_ultra.student.network import Student
from sonoray.errors import DataError
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.student import distil
from sonoray_jobs.evaluation.student.teaching import read_taught

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_student_is_judged_on_the_questions_that_its_model_answered(finished_road):
    given = {
        "workspace": finished_road.workspace,
        "road": with_values(finished_road.road, {"distil.epochs": 5}),
        "dataset": "phantom",
        "run": finished_road.trained.name,
    }
    found = distil.run(**given)
    closed = finished_road.evaluated.summary["closed"]
    assert set(found.values["topics"]) <= set(closed)
    for topic, each in found.values["topics"].items():
        assert each["num_questions"] == closed[topic]["num_questions"]
        assert each["accuracy"]["first"] == pytest.approx(closed[topic]["accuracy"]["value"])
        assert each["constant"] == pytest.approx(closed[topic]["constant_accuracy"]["value"])
    asked = sum(each["num_questions"] for each in closed.values())
    assert found.values["all"]["num_questions"] + found.values["num_unknown"] == asked
    assert 0 < found.values["times"]["ratio"] < 1
    assert any("student minus model" in line for line in found.lines())

    student = Student.load(found.output.path)
    assert set(student.shape.topics) >= set(found.values["topics"])
    (taught,) = finished_road.workspace.stages.glob("teach-phantom-test-*")
    rows = read_taught(taught)
    assert {row["split"] for row in rows} == {"train", "test"}
    for row in rows:
        assert row["images"].shape == (row["num_images"], student.shape.features)
        width = finished_road.road.model.language.hidden_size
        assert row["states"].shape == (len(row["questions"]), width)

    again = distil.run(**given)
    assert again.output.reused
    assert again.values == found.values
    other = distil.run(**{**given, "road": with_values(given["road"], {"distil.states": 0})})
    assert not other.output.reused
    assert len(list(finished_road.workspace.stages.glob("teach-phantom-test-*"))) == 1


def test_a_student_is_not_judged_on_what_it_learned_from(finished_road):
    with pytest.raises(DataError, match="choose validation or test"):
        distil.run(
            workspace=finished_road.workspace,
            road=finished_road.road,
            dataset="phantom",
            split="train",
        )
