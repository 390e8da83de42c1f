"""A road with a further tower: embedded beside the others, trained on, exported and served."""

import pytest
import torch

from llava_ultra.connector.fusion import fuse_towers
from llava_ultra.export.encoder import load_encoder
from sonoray.errors import DataError
from sonoray.study.image_table import read_images
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import resolve_model
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import find_made, find_parts
from sonoray_jobs.outputs.named_runs import find_run
from sonoray_jobs.outputs.stores import read_image_ids
from sonoray_jobs.release import export
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def mixed(finished_road, tmp_path_factory):
    """The road's own SAM once more, at twice its size, under the name `fine`."""
    workspace = finished_road.copy(tmp_path_factory.mktemp("mix"), "datasets", "stages", "features")
    road, own = finished_road.road, find_parts(workspace, finished_road.road, "phantom")
    sam = {**road.model.sam.model_dump(mode="json"), "weights": str(own["sam"].path)}
    values = {
        "model.towers": [{"name": "fine", "sam": sam, "target_grid": 3}],
        "model.fusion": {"type": "append", "towers": ["fine", "clip"]},
        "train.stages": [{"name": "align", "epochs": 1, "learning_rate": 2e-3}],
        "evaluate.topics": ["organ"],
    }
    common = {"workspace": workspace, "road": with_values(road, values), "dataset": "phantom"}
    made = bootstrap.run(**common)
    with pytest.raises(DataError, match=r"images have no fine features; run: sonoray embed"):
        train.run(**common)
    return common, made, embed.run(**common), train.run(**common)


def test_a_further_tower_is_embedded_alone_and_read_by_the_training(mixed, finished_road):
    common, made, embedded, trained = mixed
    assert set(made.outputs) == {*bootstrap.PARTS, "fine"}
    assert all(made.outputs[part].reused for part in bootstrap.PARTS)
    num_images = len(read_image_ids(common["workspace"].dataset("phantom").path))
    assert dict(embedded.num_computed) == {"clip": 0, "sam": 0, "fine": num_images}
    assert trained.name != finished_road.trained.name
    found = find_run(common["workspace"], trained.name)
    assert found.parts["fine"].path == made.outputs["fine"].path
    model = common["road"].model
    assert model.num_tokens == model.clip.num_tokens + 9
    evaluated = evaluate.run(**common, gallery=0)
    assert evaluated.summary["num_questions"] > 0


def test_the_exported_mix_computes_the_features_that_it_was_trained_on(mixed):
    common, made, *_ = mixed
    workspace = common["workspace"]
    exported = export.run(**common)
    encoder = load_encoder(resolve_model(open_store(workspace), exported.uri, workspace.models))
    fingerprint = made.outputs["fine"].manifest["summary"]["fingerprint"]
    assert encoder.towers["fine"].fingerprint == fingerprint
    output = workspace.dataset("phantom")
    first = read_image_ids(output.path)[:2]
    images = [image for image, _ in read_images(output.path, first).values()]
    made_again = find_made(workspace, common["road"], "phantom")
    stores = made_again.stores(workspace)
    stored = {name: torch.from_numpy(store.read(first)).float() for name, store in stores.items()}
    more = {"fine": stored["fine"]}
    fused = fuse_towers(encoder._fusion, encoder._sizes, stored["clip"], stored["sam"], more)
    assert torch.allclose(encoder.fuse(images).tokens, fused, atol=0.02)  # stored as float16
