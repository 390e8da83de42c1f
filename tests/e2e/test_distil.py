"""A student of a finished road's model: what it is taught, how it is judged."""

import asyncio
import shutil

import pytest

from llava_ultra.student.network import Student
from llava_ultra.student.student_card import read_card
from sonoray.errors import DataError
from sonoray.study.contract import iter_studies
from sonoray.study.image_table import read_images
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.student import distil
from sonoray_jobs.evaluation.student.lessons import student_records
from sonoray_jobs.evaluation.student.teaching import read_taught
from sonoray_jobs.outputs.find_student import find_student
from sonoray_jobs.release import export
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.routing.students import StudentsQuestion

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
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
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


def test_the_served_student_says_what_the_distilled_one_said_of_the_same_studies(finished_road):
    road = with_values(finished_road.road, {"distil.epochs": 5, "distil.seed": 7})  # the newest
    usual = {"workspace": finished_road.workspace, "dataset": "phantom"}
    found = distil.run(**usual, road=road)
    named = with_values(road, {"export.name": "with-student", "export.student": True})
    exported = export.run(**usual, road=named)
    assert exported.student == found.output.path.name
    assert "served as with-student:student" in exported.lines()[-1]
    assert export.run(**usual, road=named).version.reused
    assert not export.run(**usual, road=with_values(named, {"export.student": False})).student

    source = ModelSource(model=str(exported.path), digest="", workspace="", device="cpu")
    vision = Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)
    card = read_card(exported.path / "student")
    assert card.teacher == finished_road.trained.name
    (taught,) = finished_road.workspace.stages.glob("teach-phantom-test-*")
    rows = {row["study_id"]: row for row in read_taught(taught)}
    dataset = finished_road.workspace.dataset("phantom").path
    student = Student.load(found.output.path)
    num_compared = 0
    for study in iter_studies(dataset, split="test"):
        names = [image.image_id for image in study.images]
        pictures = read_images(dataset, names)
        pixels = [pictures[name][0] for name in names]
        encoded = asyncio.run(vision.encode(pixels, asyncio.run(vision.ready())))
        offline, _ = student_records(student, [rows[study.study_id]])
        for record in offline:
            turn = next(turn for turn in study.turns if turn.topic == record.topic)
            # some wordings are one training patient's alone here, and not known
            assert card.topic_of(turn.question, turn.options) in (record.topic, None)
            asked = StudentsQuestion(card=card, topic=record.topic, options=record.options)
            said = asked.answer(encoded.opinion).log_likelihoods
            # stored features are rounded to float16, the served ones are not
            assert said == pytest.approx(list(record.option_scores.values()), abs=0.02)
            num_compared += 1
    assert num_compared


def test_an_export_without_a_student_says_what_to_run(finished_road, tmp_path):
    workspace = finished_road.copy(tmp_path, "datasets", "stages")
    for folder in workspace.stages.glob("distil-*"):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match="run first: sonoray distil --dataset phantom --run"):
        find_student(workspace, "phantom", finished_road.trained)


def test_a_student_is_not_judged_on_what_it_learned_from(finished_road):
    with pytest.raises(DataError, match="choose validation or test"):
        distil.run(
            workspace=finished_road.workspace,
            road=finished_road.road,
            dataset="phantom",
            split="train",
        )
