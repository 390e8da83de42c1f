"""An exported model on datasets that it was not trained on, and on the one that it was."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sonoray.errors import CheckpointError, DataError
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.study.contract import iter_studies
from sonoray.tracking.connection import open_store
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.external import validate
from sonoray_jobs.outputs.find import open_stores
from sonoray_jobs.outputs.stores import read_image_ids

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OTHER = "elsewhere"
MODEL = "models:/llava-ultra-phantom@champion"


@pytest.fixture(scope="module")
def road(finished_road):
    return with_values(finished_road.road, {"external.least_patients": 2})


@pytest.fixture(scope="module")
def other(finished_road):
    """Patients of another seed, in the workspace of the finished road."""
    settings = finished_road.road.phantom.model_copy(update={"num_patients": 10, "seed": 77})
    source = PhantomSource(settings, name=OTHER)
    return ingest(source, finished_road.workspace, finished_road.road.ingest)


@pytest.fixture(scope="module")
def validated(finished_road, road, other):
    return validate.run(workspace=finished_road.workspace, road=road, model=MODEL, dataset=OTHER)


def rows_of(result):
    return pq.read_table(result.output.path / "predictions.parquet").to_pylist()


def test_every_study_elsewhere_is_asked_what_it_can_be(finished_road, validated, other):
    values = validated.values
    studies = list(iter_studies(other.path))
    assert values["studies"] == {
        "total": len(studies), "without_images": 0, "set_aside": 0, "not_asked": 0,
        "judged": len(studies), "patients": len({study.patient_key for study in studies}),
    }  # fmt: skip
    truths = Counter(
        (turn.topic, turn.answer) for study in studies for turn in study.turns if turn.options
    )
    rows = rows_of(validated)
    assert Counter((row["topic"], row["truth"]) for row in rows) >= truths
    known = json.loads((finished_road.exported.path / "record.json").read_text())["topics"]
    assert {row["topic"] for row in rows} <= set(known)
    for row in rows:
        assert row["question"].endswith(known[row["topic"]]["question"])
        assert row["question"].startswith("检查部位：")  # as it was trained
    assert all(
        account["asked"] + account["lacking"] + account["contradictory"] + account["unmapped_alone"]
        + sum(account["unmapped"].values()) == len(studies)
        for account in values["accounts"].values()
    )  # fmt: skip


def test_the_exported_towers_filled_the_workspaces_store(finished_road, validated, other):
    stores = open_stores(finished_road.workspace, finished_road.road, "phantom")
    ids = read_image_ids(other.path)
    for store in stores.values():
        assert not store.missing(ids)


def test_the_exported_model_answers_as_the_trained_one_does(finished_road, road):
    """On the dataset of its training, where the questions have the same words."""
    result = validate.run(
        workspace=finished_road.workspace, road=road, model=MODEL, dataset="phantom", split="test"
    )
    trained = {
        (row["study_id"], row["topic"], row["question"]): json.loads(row["option_scores"])
        for row in pq.read_table(
            finished_road.evaluated.output.path / "predictions.parquet"
        ).to_pylist()
        if row["task"] == "closed"
    }
    compared = 0
    for row in rows_of(result):
        before = trained.get((row["study_id"], row["topic"], row["question"]))
        if before is not None:
            assert json.loads(row["option_scores"]) == pytest.approx(before, abs=1e-4)
            compared += 1
    assert compared > 5
    (first, *_) = result.values["remarks"]
    assert (first["kind"], "no external one" in first["message"]) == ("serious", True)


def test_training_patients_are_set_aside_by_their_images_alone(finished_road, road):
    arguments = {
        "workspace": finished_road.workspace, "road": road, "model": MODEL, "dataset": "phantom",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"has seen an image of every patient of these \d+ studies"):
        validate.run(**arguments, split="train")
    values = validate.run(**arguments).values
    studies = list(iter_studies(finished_road.workspace.dataset("phantom").path))
    training = [study for study in studies if study.split == "train"]
    assert values["seen"]["studies"] == values["studies"]["set_aside"] == len(training)
    assert values["seen"]["exact_images"] == len(
        {image.image_id for study in training for image in study.images}
    )
    assert values["studies"]["judged"] == len(studies) - len(training)


def test_the_internal_test_stands_beside_it(finished_road, validated):
    tested = finished_road.evaluated.summary["closed"]
    assert len(tested.keys() & validated.values["topics"].keys()) > 2
    for topic, found in validated.values["topics"].items():
        if topic not in tested:
            continue
        own = tested[topic]
        assert found["internal_questions"] == own["num_questions"]
        assert found["internal"]["accuracy"] == own["accuracy"]
        assert found["internal"]["auc"] == own["auc"]
        difference = found["differences"]["accuracy"]
        assert difference["value"] == pytest.approx(
            found["external"]["accuracy"]["value"] - own["accuracy"]["value"]
        )
        if min(found["num_patients"], found["internal_patients"]) > 1:
            assert difference["low"] <= difference["value"] <= difference["high"]
        else:
            assert difference["low"] is None


def test_mlflow_has_it_under_the_models_run(finished_road, validated):
    client = open_store(finished_road.workspace).client
    run_id = finished_road.trained.run_id
    metrics = client.get_run(run_id).data.metrics
    for topic, found in validated.values["topics"].items():
        value = found["external"]["accuracy"]["value"]
        assert any(
            name.startswith(f"external-{OTHER}") and name.endswith(f"/{topic}/accuracy")
            and metrics[name] == value
            for name in metrics
        )  # fmt: skip
    folders = [item.path for item in client.list_artifacts(run_id, "external")]
    (folder,) = [path for path in folders if Path(path).name.startswith(OTHER)]
    names = {Path(item.path).name for item in client.list_artifacts(run_id, folder)}
    assert names == {validate.PAGE, validate.VALUES}


def test_the_page_needs_nothing_else_and_names_no_patient(validated, other):
    page = Path(validated.to_json()["page"]).read_text(encoding="utf-8")
    assert not re.search(r"<script|https?:|<link|@import", page)
    assert len(re.findall(r'src="data:image/png;base64,', page)) == len(validated.values["topics"])
    assert set(re.findall(r'src="([^"]{10})', page)) == {"data:image"}
    told = page + json.dumps(validated.values, ensure_ascii=False)
    for study in iter_studies(other.path):
        assert study.patient_key not in told
        assert study.study_id not in told
    assert "仅供科研使用" in page
    for label in ("organ", "site"):
        assert f"<h3>By {label}</h3>" in page


def test_nothing_is_done_twice(finished_road, road, validated):
    again = validate.run(
        workspace=finished_road.workspace, road=road, model=str(finished_road.exported.path),
        dataset=OTHER,
    )  # fmt: skip
    assert again.output.reused
    assert again.values == validated.values
    assert any("page: " in line for line in again.lines())


def test_an_exported_folder_holds_hashes_and_no_patient(finished_road):
    folder = finished_road.exported.path
    studies = list(iter_studies(finished_road.workspace.dataset("phantom").path, complete=False))
    training = {
        image.image_id for study in studies if study.split == "train" for image in study.images
    }
    table = pq.read_table(folder / "training_images.parquet")
    assert {value.hex() for value in table["image_id"].to_pylist()} == training
    names = [name for study in studies for name in (study.patient_key, study.study_id)]
    for file in ("manifest.json", "record.json"):
        text = (folder / file).read_text(encoding="utf-8")
        assert not [name for name in names if name in text]
    answers = pq.read_table(folder / "internal_test.parquet")
    assert answers.column_names == [
        "study", "patient", "topic", "truth", "answer", "option_scores",
    ]  # fmt: skip
    patients = {
        study.patient_key for study in studies if study.split == "test" and study.is_complete
    }
    assert set(answers["patient"].to_pylist()) == set(range(len(patients)))


def test_a_model_from_elsewhere_gets_a_run_of_its_own(finished_road, road, other, tmp_path):
    """Another house has the folder and a dataset, and neither training nor MLflow's run."""
    workspace = Workspace.open(tmp_path)
    settings = finished_road.road.phantom.model_copy(update={"num_patients": 4, "seed": 5})
    ingest(PhantomSource(settings, name=OTHER), workspace, finished_road.road.ingest)
    result = validate.run(
        workspace=workspace,
        road=with_values(road, {"evaluate.topics": ["organ"], "embed.keep": "clip"}),
        model=str(finished_road.exported.path),
        dataset=OTHER,
    )
    assert list(result.values["topics"]) == ["organ"]
    client = open_store(workspace).client
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert [run.info.run_id for run in runs] == [result.output.manifest["summary"]["run_id"]]
    assert [run.data.tags["sonoray.model"] for run in runs] == [result.values["model"]["digest"]]


def test_what_cannot_be_validated_is_refused_before_ray(finished_road, road, other, tmp_path):
    workspace = finished_road.workspace
    arguments = {"workspace": workspace, "road": road, "dataset": OTHER}
    with pytest.raises(CheckpointError, match="no readable manifest"):
        validate.run(**arguments, model=str(tmp_path))
    with pytest.raises(DataError, match=r"split 'tset' is unknown; choose one of all, train"):
        validate.run(**arguments, model=MODEL, split="tset")
    unknown = with_values(road, {"evaluate.topics": ["diagnosis"]})
    with pytest.raises(DataError, match=r"\['diagnosis'\] are no closed topics.* 'pathology'"):
        validate.run(**arguments | {"road": unknown}, model=MODEL)


def test_evaluate_on_a_dataset_of_others_points_to_the_command(finished_road, other):
    with pytest.raises(DataError) as refused:
        evaluate.run(
            workspace=finished_road.workspace, road=finished_road.road, dataset=OTHER, gallery=0
        )
    command = f"sonoray validate --run {finished_road.trained.name} --dataset {OTHER}"
    assert command in str(refused.value)
    assert "sonoray train" not in str(refused.value)
