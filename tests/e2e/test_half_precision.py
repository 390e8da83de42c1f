"""The road in bfloat16, on the parts of the finished one: embed, train, evaluate, export."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llava_ultra.export.assistant import load_assistant
from llava_ultra.parameters.products import cpu_has_bfloat16
from llava_ultra.testing import tiny_image
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.release import export
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import embed
from sonoray_jobs.training import train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16"),
]


@pytest.fixture(scope="module")
def halved(finished_road, tmp_path_factory):
    """Workspace, road, and what the steps made."""
    folder = tmp_path_factory.mktemp("halved")
    workspace = finished_road.copy(folder, "datasets", "stages", "features")
    values = finished_road.road.model_dump(mode="json")
    for section in ("embed", "train"):
        values[section]["precision"] = "bfloat16"
    values["evaluate"]["actors"] = 2  # elsewhere one answers all
    road = RoadConfig.model_validate(values)
    common = {"workspace": workspace, "road": road, "dataset": "phantom"}
    embedded, trained = embed.run(**common), train.run(**common)
    evaluated = evaluate.run(**common, gallery=0)
    return common, embedded, trained, evaluated, export.run(**common)


def test_lowered_towers_have_stores_of_their_own(halved, finished_road):
    common, embedded, *_ = halved
    count = finished_road.embedded.num_images
    assert embedded.num_computed == {"clip": count, "sam": count}
    names = sorted(path.name for path in common["workspace"].features.iterdir())
    lowered = [name for name in names if name.endswith("-float16-of-bfloat16")]
    assert len(lowered) == 2
    assert set(names) == {*lowered, *(name.removesuffix("-of-bfloat16") for name in lowered)}


def test_it_is_another_training_and_learns_nearly_the_same_in_float32(halved, finished_road):
    _, _, trained, evaluated, _ = halved
    expected = finished_road.trained
    assert trained.name != expected.name
    for name in ("answer_loss", "distillation_loss"):
        assert trained.metrics[name] == pytest.approx(expected.metrics[name], rel=0.05), name
    for file in ("weights.safetensors", "optimizer.safetensors"):
        state = load_file(trained.checkpoint / file)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    for name in ("num_studies", "num_questions"):
        assert evaluated.summary[name] == finished_road.evaluated.summary[name]


def test_the_exported_model_says_so_and_answers_so(halved, finished_road):
    *_, exported = halved
    manifest, before = (
        json.loads((path / "manifest.json").read_text())
        for path in (exported.path, finished_road.exported.path)
    )
    assert manifest["precision"] == {"model": "bfloat16", "towers": "bfloat16"}
    assert "precision" not in before
    for given, precision in (("trained", "bfloat16"), ("float32", "float32")):
        assistant = load_assistant(exported.path, "cpu", given)
        assert assistant.model.precision == precision
        tokens = assistant.encode([tiny_image(0, 64, 64)]).tokens
        assert tokens.isfinite().all()
