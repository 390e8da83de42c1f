"""An alias moves through gates alone: real exported folders in a real MLflow store."""

import json
import shutil
from pathlib import Path

import pytest

from llava_ultra.testing import tiny_artifact
from sonoray.errors import CheckpointError, TrackingError
from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.tracking.aliases import aliased_version, move_alias
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import register
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.model_record import (
    RECORD,
    ModelFacts,
    ModelRecord,
    TopicRecord,
    read_record,
    write_record,
)
from sonoray_jobs.release.gates import LEAST_QUESTIONS, check_card, check_digests, check_test
from sonoray_jobs.release.model_card import CARD, CardSources, lacking_sections, model_card
from sonoray_jobs.release.promote import roll_back, run
from sonoray_jobs.road.config import RoadConfig

OPTIONS = ("良性", "恶性")
NUM_PATIENTS = 60
BOOTSTRAP = Bootstrap(num_resamples=1000)
FACTS = ModelFacts(
    dtype="float16",
    near_duplicate_distance=24,
    near_duplicate_correlation=0.9,
    num_training_patients=9,
    topics={"pathology": TopicRecord(question="良恶性？", options=OPTIONS, answers={"良性": 7})},
)
SETTINGS = {
    "stages": [{"name": "align", "epochs": 2, "learning_rate": 2e-3, "lora": False}],
}


def answers(wrong, patients=range(NUM_PATIENTS)):
    """One answer for each patient, `wrong` of them wrong."""
    found = []
    for number in patients:
        answer = OPTIONS[number < wrong]
        found.append(
            AnswerRecord(
                study_id=f"images of {number}", patient_key=f"key {number}", topic="pathology",
                truth=OPTIONS[0], answer=answer, options=OPTIONS,
                option_scores={option: float(option == answer) for option in OPTIONS},
            )
        )  # fmt: skip
    return found


def record_model(folder, internal_test, name="m"):
    """Give an exported folder a record and a card, as `sonoray export` does."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    record = ModelRecord(facts=FACTS, training_images={}, internal_test=internal_test)
    manifest["name"] = name
    manifest["provenance"][RECORD] = write_record(folder, record)
    path.write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    evaluation = None
    if internal_test:
        evaluation = folder.parent / f"{folder.name}-evaluation"
        evaluation.mkdir(exist_ok=True)
        (evaluation / "closed.md").write_text("| topic |\n| --- |\n| pathology |\n")
        (evaluation / "text.md").write_text("| topic |\n| --- |\n")
    sources = CardSources(
        name=name, dataset="phantom", num_training_patients=9, run_id="r", training="phantom-1",
        settings=SETTINGS, metrics={"answer_loss": 0.25, "alpha": 0.5}, evaluation=evaluation,
    )  # fmt: skip
    card = model_card(manifest, FACTS.model_dump(mode="json"), sources)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact") / "model"
    folder.mkdir()
    tiny_artifact(folder)
    return folder


@pytest.fixture
def exported(artifact, tmp_path):
    """Makes an exported folder with an internal test of its own."""

    def make(name, internal_test):
        return record_model(Path(shutil.copytree(artifact, tmp_path / name)), internal_test)

    return make


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace.open(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def store(workspace):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield open_store(workspace)


@pytest.fixture
def registered(store, workspace, exported, request):
    """Registers models under the name of the test."""
    name = request.node.originalname
    with held_run(store, workspace.runs, name, config={}) as run_id:
        pass

    def make(folder_name, internal_test):
        folder = exported(folder_name, internal_test)
        return register(store, folder, name, run_id=run_id)

    return make


def promote(workspace, version, **options):
    road = RoadConfig.model_validate({"evaluate": {"bootstrap_samples": 1000}})
    return run(workspace=workspace, road=road, model=version.uri, alias="champion", **options)


def told(gates):
    return {gate.name: (gate.passed, gate.told) for gate in gates}


@pytest.mark.slow
def test_a_worse_model_never_becomes_the_champion_and_a_better_one_does(
    workspace, store, registered
):
    good = registered("good", answers(6))
    first = promote(workspace, good)
    assert (first.moved, first.before, first.exit_code) == (True, None, 0)
    assert [gate.name for gate in first.gates] == ["files", "digests", "card", "test"]

    toy = registered("toy", answers(30))
    refused = promote(workspace, toy)
    assert (refused.moved, refused.exit_code, refused.before) == (False, 1, good.version)
    assert told(refused.gates)["test"][0] is False
    assert "accuracy 0.500 against 0.900 on 60 equal questions" in told(refused.gates)["test"][1]
    assert "champion stays at version 1" in refused.lines()[-2]
    assert "--despite" in refused.lines()[-1]
    assert aliased_version(store, good.name, "champion") == good

    better = registered("better", answers(3))
    moved = promote(workspace, better)
    assert (moved.moved, moved.before) == (True, good.version)
    assert moved.lines()[-1] == f"back: sonoray rollback {good.name} --alias champion"
    again = promote(workspace, better)
    assert (again.moved, again.exit_code, again.lines()) == (
        False, 0, [f"{better.uri} has the alias champion already"],
    )  # fmt: skip
    back = roll_back(workspace=workspace, name=good.name, alias="champion")
    assert (back.before, back.now) == (better.version, good.version)
    assert aliased_version(store, good.name, "champion").version == good.version

    reason = "the champion saw the test 的 images"
    forced = promote(workspace, toy, despite=reason)
    assert (forced.moved, forced.despite) == (True, reason)
    tags = store.client.get_model_version(good.name, str(toy.version)).tags
    noted = json.loads(tags["sonoray.promoted.champion"])
    assert noted["despite"] == reason
    assert "test FAILED" in noted["gates"]


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_not_promoted_whatever_the_reason(
    workspace, store, registered
):
    first = registered("whole", answers(6))
    move_alias(store, first, "champion")
    broken = registered("broken", answers(3))
    stored = Path(broken.source.removeprefix("file://"))
    (stored / "adapter.safetensors").write_bytes(b"")
    result = promote(workspace, broken, despite="I want it")
    assert not result.moved
    assert told(result.gates)["digests"][0] is False
    assert "--despite" not in "\n".join(result.lines())
    shutil.rmtree(stored)
    result = promote(workspace, broken, despite="I want it")
    assert [(gate.name, gate.passed) for gate in result.gates] == [("files", False)]
    assert "mlflow gc" in result.gates[0].told
    with pytest.raises(TrackingError, match="there is of"):
        run(
            workspace=workspace, road=RoadConfig(), model=f"models:/{first.name}/9",
            alias="champion",
        )  # fmt: skip
    move_alias(store, broken, "champion")
    move_alias(store, first, "champion")
    with pytest.raises(CheckpointError, match=f"stays at version {first.version}.*gone"):
        roll_back(workspace=workspace, name=first.name, alias="champion")


@pytest.mark.parametrize(
    ("own", "present", "passed", "words"),
    [
        (answers(6), answers(6), True, "difference +0.000"),
        (answers(5), answers(6), True, "difference +0.017"),
        (answers(12), answers(6), False, "not above -0.05"),
        # a test that is too small to tell does not pass
        (answers(3, range(20)), answers(2, range(20)), False, "not above"),
        (answers(2, range(10)), answers(2, range(10)), False, f"{LEAST_QUESTIONS} are needed"),
        # a dataset that grew: what both were asked counts
        (answers(6, range(90)), answers(6), True, "on 60 equal questions"),
        (answers(6, range(200, 260)), answers(6), False, "both answered 0 equal questions"),
        ([], answers(6), False, "this version was exported without"),
        (answers(6), [], False, "the present version was exported without"),
    ],
)  # fmt: skip
def test_the_paired_test(tmp_path, own, present, passed, words):
    folders = []
    for name, internal_test in (("own", own), ("present", present)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(MANIFEST))
        folders.append(record_model(folder, internal_test))
    gate = check_test(*folders, margin=0.05, bootstrap=BOOTSTRAP)
    assert gate.passed is passed
    assert words in gate.told


MANIFEST = {
    "format": 3,
    "notice": "research only",
    "config": {
        "clip": {"image_size": 96, "weights": ""},
        "sam": {"image_size": 96, "weights": "/home/somebody/sam_vit_b.pth"},
        "language": {"context_length": 512, "source": ""},
        "fusion": {"type": "blend"},
        "sampling": {"type": "adaptive"},
        "lora": {"variant": "lora", "rank": 8},
    },
    "digests": {part: part[0] * 64 for part in ("connector", "adapter", "clip", "sam", "language")},
    "provenance": {},
}


def test_a_study_is_known_by_the_hash_of_its_images(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    record_model(tmp_path, answers(0, range(2)))
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    first, second = read_record(tmp_path, manifest).internal_test
    assert first.study_id != second.study_id
    assert len(first.study_id) == 32
    assert b"images of" not in (tmp_path / "internal_test.parquet").read_bytes()


def test_the_card_says_what_is_known_and_nothing_of_paths(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    record_model(tmp_path, answers(3))
    card = (tmp_path / CARD).read_text(encoding="utf-8")
    assert lacking_sections(card) == []
    assert check_card(tmp_path).passed
    assert card.startswith("# m\n\n> research only\n")
    assert "| sam | 96 px | sam_vit_b.pth | `ssssssssssssssss` |" in card
    assert "/home/somebody" not in card
    assert "| align | 2 | 0.002 | no |" in card
    assert "At the end: answer_loss 0.25." in card
    assert "| pathology | 良恶性？ | 良性, 恶性 |" in card
    assert "models:/m/VERSION" in card


def test_a_card_that_lacks_something_stops_a_promotion(tmp_path):
    assert "there is no README.md" in check_card(tmp_path).told
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    record_model(tmp_path, [])
    gate = check_card(tmp_path)
    assert not gate.passed
    assert "Results on its internal test" in gate.told
    assert "sonoray evaluate" in gate.told
    (tmp_path / CARD).write_text("# a page of somebody's own\n", encoding="utf-8")
    assert "How to use it" in check_card(tmp_path).told


def test_another_part_than_the_manifest_names_is_told(artifact, tmp_path):
    folder = Path(shutil.copytree(artifact, tmp_path / "model"))
    assert check_digests(folder).passed
    other = tmp_path / "other"
    other.mkdir()
    tiny_artifact(other, name="other")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["digests"]["clip"] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    gate = check_digests(folder)
    assert (gate.passed, gate.is_technical) == (False, True)
    assert "clip" in gate.told
