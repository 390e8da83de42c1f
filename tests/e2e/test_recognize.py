"""Recognition on a finished road: its own studies, another bank, and a table of a new user's."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from sonoray.errors import DataError
from sonoray.ingest.source_options import SourceOptions
from sonoray.study.contract import iter_studies
from sonoray.study.image_table import read_images
from sonoray.tracking.connection import open_store
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.recognition import recognize
from sonoray_jobs.training import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def given(finished_road, tmp_path_factory):
    """A training of one epoch that recognises, over copies of the road's towers and features."""
    listed = [{"type": "recognition", "bank": "phantom-zh"}, {"type": "laver"}]
    stage = {"name": "instruct", "epochs": 1, "learning_rate": 2e-3, "lora": True}
    road = with_values(finished_road.road, {"model.objectives": listed, "train.stages": [stage]})
    folder = tmp_path_factory.mktemp("recognising")
    workspace = finished_road.copy(folder, "datasets", "stages", "features")
    common = {"workspace": workspace, "road": road, "dataset": "phantom"}
    trained = train.run(**common)
    assert {"recognition_loss", "laver_loss"} <= set(trained.metrics)
    weights = load_file(trained.checkpoint / "weights.safetensors")
    assert weights["heads.laver.centre"].any()  # zero until a step moves the teacher along
    averages = [each for name, each in weights.items() if ".teacher|" in name and "lora_B" in name]
    assert any(each.any() for each in averages)
    return common


def test_every_test_study_gets_shares_and_labels_give_figures(given):
    done = recognize.run(**given, classes="phantom-zh")
    studies = list(iter_studies(given["workspace"].dataset("phantom").path, split="test"))
    rows = pq.read_table(done.output.path / "scores.parquet").to_pylist()
    assert {row["study_id"] for row in rows} == {study.study_id for study in studies}
    for row in rows:
        shares = [each["share"] for each in json.loads(row["scores"])]
        assert sum(shares) == pytest.approx(1)
    figures = done.summary["figures"]
    assert figures["num_studies"] == len(studies)
    lacking = [each for each in figures["classes"] if not each["num_positive"]]
    assert lacking  # two studies, five classes: a dash, and no part in means
    assert all(each["auc"] is None for each in lacking)
    text = (done.output.path / "recognition.txt").read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(lacking[0]["name"]))
    assert line.split()[3] == "-"
    client, place = open_store(given["workspace"]).client, "recognize/phantom-test-phantom-zh"
    logged = client.list_artifacts(done.summary["run_id"], place)
    assert {item.path for item in logged} >= {
        f"{place}/recognition.json",
        f"{place}/recognition.md",
    }
    assert recognize.run(**given, classes="phantom-zh").output.reused


def test_another_bank_reads_no_study_again(given, tmp_path):
    recognize.run(**given, classes="phantom-zh")
    stages = given["workspace"].stages
    before = {path.name: path.stat().st_mtime_ns for path in stages.glob("read-phantom-*")}
    assert before
    names = tmp_path / "names.txt"
    names.write_text("囊肿\n结节\n", "utf-8")
    done = recognize.run(**given, classes=str(names))
    assert {path.name: path.stat().st_mtime_ns for path in stages.glob("read-phantom-*")} == before
    assert done.summary["figures"] is None
    assert any("scores alone, no figures" in line for line in done.lines())


def test_a_new_users_table_of_images_is_recognised(given, tmp_path):
    folder = given["workspace"].dataset("phantom").path
    studies = list(iter_studies(folder, split="test"))
    ids = [image.image_id for study in studies for image in study.images]
    rows = ["study,patient,image,modality,label:kind"]
    for number, (pixels, _) in enumerate(read_images(folder, ids).values()):
        Image.fromarray(255 - pixels).save(tmp_path / f"{number}.png")
        rows.append(f"s{number},p{number},{number}.png,US,{('cyst', 'benign_solid')[number % 2]}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(rows), "utf-8")
    road = with_values(given["road"], {"dataset": "mine"})
    options = SourceOptions(path=table, name="mine")
    ingest.run(workspace=given["workspace"], road=road, dataset="table", options=options)
    own = {**given, "dataset": "mine"}
    run = train.run(**given).name
    done = recognize.run(**own, classes="phantom-zh", split="all", run=run)
    assert done.summary["num_studies"] == len(rows) - 1
    judged = {each["name"]: each["num_positive"] for each in done.summary["figures"]["classes"]}
    assert judged["囊肿"] == -(-(len(rows) - 1) // 2)


def test_a_second_modality_goes_the_same_road(given):
    changes = {"phantom.modality": "projection", "phantom.num_patients": 8}
    road = with_values(given["road"], changes)
    options = SourceOptions(name="films")
    ingest.run(workspace=given["workspace"], road=road, dataset="phantom", options=options)
    run = train.run(**given).name
    own = {**given, "dataset": "films"}
    done = recognize.run(**own, classes="chest-zh", split="all", run=run)
    studies = list(iter_studies(given["workspace"].dataset("films").path))
    assert {study.labels["modality"] for study in studies} == {"DX"}
    figures = done.summary["figures"]
    assert figures["num_studies"] == len(studies) == 8
    assert sum(each["num_positive"] for each in figures["classes"]) == 8


def test_a_model_that_does_not_recognise_says_so(given, finished_road):
    with pytest.raises(DataError, match="was not trained to recognise; train one"):
        recognize.run(
            workspace=finished_road.workspace,
            road=finished_road.road,
            dataset="phantom",
            classes="phantom-zh",
        )
