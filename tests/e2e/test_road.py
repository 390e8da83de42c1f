"""Every step of the road on the tiny road's own outputs; the road itself is gone through once."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from llava_ultra.export.assistant import load_assistant
from llava_ultra.export.encoder import VisualStudy
from llava_ultra.language.decoder import load_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra, trainable_parameters
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images
from sonoray.errors import ConfigError, DataError, TrackingError
from sonoray.study.contract import Task, iter_studies
from sonoray.study.image_table import read_images
from sonoray.study.prompt import with_site_cue
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import resolve_model
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.outputs.find import open_stores
from sonoray_jobs.outputs.stores import read_image_ids
from sonoray_jobs.release import export
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training import train
from sonoray_jobs.training.checkpoint import read_position
from sonoray_jobs.training.worker import set_trainable

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DATASET = "phantom"

# in a process of its own: MLflow remembers for its life where a run's artifacts are, by run id
GO_ON = """
import json, sys
from pathlib import Path
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import resolve_model
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.release import export
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train

workspace, road = Workspace.open(Path(sys.argv[1])), RoadConfig.model_validate_json(sys.argv[2])
given = {"workspace": workspace, "road": road, "dataset": "phantom"}
trained = train.run(**given)
evaluated = evaluate.run(**given, split="validation", gallery=1)
exported = export.run(**given)
model = resolve_model(open_store(workspace), exported.uri, workspace.models)
print(json.dumps({
    "trained again": not trained.reused,
    "checkpoint": str(trained.checkpoint),
    "evaluated before": evaluated.output.reused,
    "version": exported.version.version,
    "model": str(model),
}))
"""


def arguments(done, workspace=None):
    return {"workspace": workspace or done.workspace, "road": done.road, "dataset": DATASET}


def studies_of(done, split):
    """Studies as this road reads them: every question begins with the examination site."""
    path = done.workspace.dataset(DATASET).path
    return [with_site_cue(study) for study in iter_studies(path, split=split)]


def steps_per_epoch(done):
    """Steps of an epoch, the last of which may be smaller."""
    return math.ceil(len(studies_of(done, "train")) / done.road.train.studies_per_step)


def mlflow_run(done):
    return open_store(done.workspace).client.get_run(done.trained.run_id)


def history(done, metric):
    client = open_store(done.workspace).client
    return [(p.step, p.value) for p in client.get_metric_history(done.trained.run_id, metric)]


def keep_training_rows(dataset: Path) -> None:
    """Remove every study and image that is not of a training patient from a dataset's tables."""
    training = list(iter_studies(dataset, split="train"))
    images = [image.image_id for study in training for image in study.images]
    for folder, column, kept in (
        ("studies", "study_id", [study.study_id for study in training]),
        ("images", "image_id", images),
    ):
        for file in sorted((dataset / folder).glob("*.parquet")):
            table = pq.read_table(file)
            rows = [value in set(kept) for value in table[column].to_pylist()]
            assert not all(rows)
            pq.write_table(table.filter(rows), file)


def tensors(path: Path) -> dict[str, list[int]]:
    """Names and shapes in a safetensors file."""
    with safe_open(path, "pt") as file:
        names = file.keys()  # the handle itself does not iterate
        return {name: file.get_slice(name).get_shape() for name in names}


def test_parts_are_made_whole_and_reused(finished_road):
    made = finished_road.bootstrapped.outputs
    assert set(made) == set(bootstrap.PARTS)
    for part, steps in (("language", 6), ("sam", 4), ("clip", 4)):
        summary = made[part].manifest["summary"]
        assert summary["num_steps"] == steps
        assert np.isfinite([summary["first_loss"], summary["last_loss"]]).all()
    language = made["language"]
    assert language.manifest["summary"]["last_loss"] < language.manifest["summary"]["first_loss"]
    assert load_language(language.path).digest
    for kind, part in ((ClipTower, "clip"), (SamTower, "sam")):
        tower = kind.load(made[part].path)
        assert tower.fingerprint == made[part].manifest["summary"]["fingerprint"]
    again = bootstrap.run(**arguments(finished_road)).outputs
    assert all(output.reused for output in again.values())
    assert {part: output.key for part, output in again.items()} == {
        part: output.key for part, output in made.items()
    }


def test_bootstrap_sees_training_patients_only_and_repeats_itself(finished_road, tmp_path):
    """The same parts, to the last bit, from a dataset that holds nobody else."""
    workspace = finished_road.copy(tmp_path, "datasets")
    source = finished_road.workspace.dataset(DATASET).path
    dataset = workspace.stages / source.name
    shutil.copytree(source, dataset)
    keep_training_rows(dataset)
    assert not list(iter_studies(dataset, split="test"))
    made = finished_road.bootstrapped.outputs
    for part, output in bootstrap.run(**arguments(finished_road, workspace)).outputs.items():
        assert not output.reused
        assert output.manifest["summary"] == made[part].manifest["summary"]
        assert output.manifest["files"] == made[part].manifest["files"]


def test_every_images_features_are_the_towers_own(finished_road):
    stores = open_stores(finished_road.workspace, finished_road.road, DATASET)
    dataset = finished_road.workspace.dataset(DATASET).path
    ids = read_image_ids(dataset)
    assert finished_road.embedded.num_computed == {"clip": len(ids), "sam": len(ids)}
    assert sorted(ids) == sorted(
        {image.image_id for study in iter_studies(dataset) for image in study.images}
    )
    images = [image for image, _ in read_images(dataset, ids).values()]
    parts = finished_road.bootstrapped.outputs
    for kind, part in ((ClipTower, "clip"), (SamTower, "sam")):
        own = encode_images(kind.load(parts[part].path), images, "cpu").numpy()
        # half a step of float16, and what another batch size changes in float32
        np.testing.assert_allclose(stores[part].read(ids), own, rtol=2**-11, atol=1e-5)


def test_the_size_of_the_features_is_foretold(finished_road):
    files = finished_road.workspace.features.rglob("batch-*.arrow")
    real = sum(file.stat().st_size for file in files)
    assert finished_road.embedded.predicted_bytes == pytest.approx(real, rel=0.15)


def test_a_rerun_embeds_only_what_was_lost(finished_road, tmp_path):
    assert set(embed.run(**arguments(finished_road)).num_computed.values()) == {0}
    workspace = finished_road.copy(tmp_path, "datasets", "stages", "features")
    stores = open_stores(workspace, finished_road.road, DATASET)
    ids = read_image_ids(workspace.dataset(DATASET).path)
    whole = stores["sam"].read(ids)
    lost, *left = sorted(Path(stores["sam"].place).glob("batch-*.arrow"))
    assert left
    lost.unlink()
    store = open_stores(workspace, finished_road.road, DATASET)["sam"]
    num_lost = len(store.missing(ids))
    assert 0 < num_lost < len(ids)
    again = embed.run(**arguments(finished_road, workspace))
    assert again.num_computed == {"clip": 0, "sam": num_lost}
    assert set(left) < set(Path(store.place).glob("batch-*.arrow"))
    np.testing.assert_allclose(store.read(ids), whole, rtol=2**-10, atol=1e-5)


def test_two_workers_train_in_one_mlflow_run_with_every_epoch(finished_road):
    assert finished_road.train_workers == 2
    stages = finished_road.road.train.stages
    per_epoch = steps_per_epoch(finished_road)
    steps = [per_epoch * (epoch + 1) for epoch in range(sum(stage.epochs for stage in stages))]
    for metric in ("loss", "answer_loss", "distillation_loss", "grounding_loss", "alpha"):
        values = history(finished_road, metric)
        assert [step for step, _ in values] == steps
        assert np.isfinite([value for _, value in values]).all()
    assert [value for _, value in history(finished_road, "stage")] == [0, 0, 1, 1]
    assert [value for _, value in history(finished_road, "lora")] == [0, 0, 1, 1]
    assert [value for _, value in history(finished_road, "epoch")] == [1, 2, 1, 2]
    run = mlflow_run(finished_road)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_workers"] == "2"
    client = open_store(finished_road.workspace).client
    experiments = [item.experiment_id for item in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 1


def test_a_checkpoint_holds_whole_tensors(finished_road):
    """Whatever the ranks' shares were, so that any number of workers can go on from it."""
    folder = finished_road.trained.checkpoint
    road = finished_road.road
    language = load_language(finished_road.bootstrapped.outputs["language"].path)
    digests = {"language": language.digest} | {
        tower: finished_road.bootstrapped.outputs[tower].manifest["summary"]["fingerprint"]
        for tower in ("clip", "sam")
    }
    steps = 2 * steps_per_epoch(finished_road)
    position = read_position(folder)
    assert (position.stage, position.epochs, position.steps) == (1, 2, steps)
    assert position.digests == digests
    model = LlavaUltra(road.model, add_lora(language.model, road.model.lora))
    set_trainable(model, road.train.stages[-1])
    shapes = {name: list(p.shape) for name, p in trainable_parameters(model).items()}
    assert tensors(folder / "weights.safetensors") == shapes
    assert tensors(folder / "optimizer.safetensors") == {
        f"{name}|{moment}": shape
        for name, shape in shapes.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }


def test_a_finished_training_is_not_repeated(finished_road):
    before = history(finished_road, "loss")
    again = train.run(**arguments(finished_road))
    assert again.reused
    assert (again.run_id, again.checkpoint) == (
        finished_road.trained.run_id,
        finished_road.trained.checkpoint,
    )
    assert again.metrics == finished_road.trained.metrics
    assert history(finished_road, "loss") == before


def test_every_question_of_the_split_is_answered_once(finished_road):
    rows = pq.read_table(finished_road.evaluated.output.path / "predictions.parquet").to_pylist()
    asked = [(study, turn) for study in studies_of(finished_road, "test") for turn in study.turns]
    assert asked
    assert [(row["study_id"], row["question"], row["truth"]) for row in rows] == [
        (study.study_id, turn.question, turn.answer) for study, turn in asked
    ]
    for row, (study, turn) in zip(rows, asked, strict=True):
        scores = json.loads(row["option_scores"])
        assert set(scores) == set(turn.options)
        assert row["answer"] == (max(scores, key=scores.get) if scores else row["generated"])
        assert all(score < 0 for score in scores.values())
        assert len(row["image_scores"]) == len(study.images)
        assert sum(row["image_scores"]) == pytest.approx(1, abs=1e-5)
        assert row["selected"] == [int(np.argmax(row["image_scores"]))]
        shown = [image.labels["shows_finding"] for image in study.images]
        assert row["image_ids"] == [image.image_id for image in study.images]
        assert row["showing"] == [int(each) for each in shown]
        assert (row["attention_pick"] in range(len(shown))) == ("1" in shown)
    prompts = {(row["question"], row["prompt_hash"]) for row in rows}
    assert len(prompts) == len({prompt for _, prompt in prompts})  # one hash for one question
    assert len({question for question, _ in prompts}) == len(prompts) > 1
    assert len({row["decoding_hash"] for row in rows}) == 1


def test_tables_and_metrics_are_kept_and_logged(finished_road, tmp_path):
    folder = finished_road.evaluated.output.path
    summary = finished_road.evaluated.summary
    topics = {
        turn.topic
        for study in studies_of(finished_road, "test")
        for turn in study.turns
        if turn.task is Task.CLOSED
    }
    assert set(summary["closed"]) == topics
    for topic in topics:
        assert topic in (folder / "closed.md").read_text()
        assert topic in (folder / "closed.txt").read_text()
    assert "report" in (folder / "text.md").read_text()
    logged = mlflow_run(finished_road)
    for topic, values in summary["closed"].items():
        name = f"test/{topic}/accuracy"
        assert logged.data.metrics[name] == pytest.approx(values["accuracy"]["value"])
    client = open_store(finished_road.workspace).client
    files = client.list_artifacts(logged.info.run_id, "evaluation/test")
    # no predictions: they hold patients' texts
    always = {"closed.md", "text.md", "metrics.json", "scores.png", "settings.json"}
    curves = {"roc.png"} & {file.name for file in folder.iterdir()}  # where both answers occur
    assert {Path(file.path).name for file in files} == always | curves
    [plot] = client.list_artifacts(logged.info.run_id, "training")
    assert plot.path == "training/alpha.png"
    kept = {turn.answer for s in studies_of(finished_road, "train") for turn in s.turns}
    reports = {text for text in kept if len(text) > 12}
    assert reports
    for file in files:
        if not file.path.endswith(".png"):
            path = client.download_artifacts(logged.info.run_id, file.path, str(tmp_path))
            shown = Path(path).read_text(encoding="utf-8")
            assert not [report for report in reports if report in shown]
    assert evaluate.run(**arguments(finished_road)).output.reused


def test_the_gallery_shows_test_studies_and_stays_in_the_workspace(finished_road):
    gallery = finished_road.evaluated.gallery
    studies = {study.study_id for study in studies_of(finished_road, "test")}
    num = gallery.manifest["summary"]["num_studies"]
    assert num == min(evaluate.DEFAULT_GALLERY, len(studies))
    page = (gallery.path / "gallery.md").read_text(encoding="utf-8")
    shown = [line.removeprefix("## Study ") for line in page.splitlines() if "## Study" in line]
    assert len(set(shown)) == len(shown) == num
    assert set(shown) <= studies
    assert len(list(gallery.path.glob("study-*.png"))) == num
    assert str(gallery.path) in "\n".join(finished_road.evaluated.lines())
    assert evaluate.run(**arguments(finished_road), gallery=0).gallery is None


def test_an_evaluation_that_mlflow_misses_is_not_finished(finished_road):
    with pytest.raises(TrackingError):
        evaluate.run(
            **arguments(finished_road), split="validation", tracking_uri="http://127.0.0.1:9"
        )
    assert not list(finished_road.workspace.stages.glob("*evaluate-phantom-validation-*"))


def test_a_copied_workspace_never_reads_the_first_one(finished_road, tmp_path):
    first = finished_road.workspace.root
    copied = Workspace.open(shutil.copytree(first, tmp_path / "copy"))
    hidden = first.rename(first.with_name(f"{first.name}-hidden"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", GO_ON, str(copied.root), finished_road.road.model_dump_json()],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["trained again"] is told["evaluated before"] is False
        assert told["version"] == finished_road.exported.version.version
        for place in ("checkpoint", "model"):
            assert Path(told[place]).is_relative_to(copied.root)
        assert load_assistant(Path(told["model"])).site_cue
        assert not first.exists()
    finally:
        hidden.rename(first)
    of_first = str(first).encode()
    for file in copied.root.rglob("*"):
        if file.is_file() and not file.name.startswith("mlflow.db"):  # of which MLflow reads rows
            assert of_first not in file.read_bytes(), file


def test_the_exported_model_answers_as_the_evaluated_one(finished_road):
    workspace = finished_road.workspace
    assert finished_road.exported.uri == "models:/llava-ultra-phantom/1"
    assert finished_road.exported.is_first
    folder = resolve_model(open_store(workspace), finished_road.exported.uri, workspace.models)
    assistant = load_assistant(folder)
    assert assistant.manifest["provenance"]["run_id"] == finished_road.trained.run_id
    assert assistant.site_cue
    study = studies_of(finished_road, "test")[0]
    ids = [image.image_id for image in study.images]
    dataset = finished_road.workspace.dataset(DATASET).path
    images = [image for image, _ in read_images(dataset, ids).values()]
    encoded = assistant.encode(images)
    stores = open_stores(finished_road.workspace, finished_road.road, DATASET)
    features = {
        tower: torch.from_numpy(store.read(ids).astype(np.float32))
        for tower, store in stores.items()
    }
    with torch.no_grad():
        tokens = assistant.model.fuse(features["clip"], features["sam"])
        scores = assistant.model.sampler.feature_scores(tokens)
    # evaluation read features of half precision
    torch.testing.assert_close(encoded.tokens, tokens, rtol=1e-2, atol=1e-2)
    visual = VisualStudy(tokens=tokens, feature_scores=scores)
    rows = pq.read_table(finished_road.evaluated.output.path / "predictions.parquet").to_pylist()
    answered = {row["question"]: row for row in rows if row["study_id"] == study.study_id}
    max_tokens = finished_road.road.evaluate.max_tokens
    for turn in study.turns:
        prompt = assistant.prepare(visual, [{"role": "user", "content": turn.question}])
        answer = "".join(assistant.stream(prompt, max_tokens=max_tokens))
        assert answer == answered[turn.question]["generated"]
        assert prompt.selected == answered[turn.question]["selected"]


def test_exporting_again_makes_no_second_version(finished_road):
    again = export.run(**arguments(finished_road))
    assert (again.uri, again.path) == (finished_road.exported.uri, finished_road.exported.path)
    assert (again.version.reused, again.version.repaired, again.is_first) == (True, False, False)
    assert again.lines()[1] == "it is the champion"


@pytest.mark.parametrize(
    ("there", "job", "fix"),
    [
        ((), bootstrap.run, "sonoray ingest phantom"),
        (("ingest",), embed.run, "sonoray bootstrap --dataset phantom"),
        (("ingest",), train.run, "sonoray bootstrap --dataset phantom"),
        (("ingest", "bootstrap"), train.run, "sonoray embed --dataset phantom"),
        (("ingest", "bootstrap"), evaluate.run, "sonoray train --dataset phantom"),
        (("ingest", "bootstrap"), export.run, "sonoray train --dataset phantom"),
    ],
)
def test_a_missing_step_is_named_with_its_command(finished_road, tmp_path, there, job, fix):
    workspace = Workspace.open(tmp_path)
    if there:
        finished_road.copy(tmp_path, "datasets")
    for stage in finished_road.workspace.stages.iterdir():
        if stage.name.startswith(there):
            shutil.copytree(stage, workspace.stages / stage.name)
    with pytest.raises(DataError, match=fix) as caught:
        job(**arguments(finished_road, workspace))
    assert "\n" not in str(caught.value)
    assert not workspace.runs.exists()


def test_workers_that_do_not_fit_leave_no_run_behind(finished_road, tmp_path):
    workspace = finished_road.copy(tmp_path, "datasets", "stages", "features")
    greedy = finished_road.road.train.model_copy(update={"cpus_per_worker": 3.0})
    road = finished_road.road.model_copy(update={"train": greedy})
    # where it runs does not make it another training
    assert train.run(**arguments(finished_road) | {"road": road}).reused
    with pytest.raises(ConfigError, match="2 train workers of 3 CPUs leave each 0"):
        train.run(**arguments(finished_road, workspace) | {"road": road})
    assert not workspace.runs.exists()


def test_an_unknown_split_is_refused(finished_road):
    with pytest.raises(DataError, match="split 'tset' is unknown; choose one of train"):
        evaluate.run(**arguments(finished_road), split="tset")


def test_nothing_half_written_is_left(finished_road):
    assert list(finished_road.workspace.root.rglob("*partial*")) == []
