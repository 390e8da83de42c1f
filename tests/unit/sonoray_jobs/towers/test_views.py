"""Views of training images: keys, who has them, what is embedded, read and trained on."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llava_ultra.perturbations.echo import GainPerturbation
from llava_ultra.perturbations.frame import ZoomPerturbation
from sonoray.features.store import FeatureStore
from sonoray.images.decode import encode_png
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embed_pipeline import Look, TowerActor, TowerStage, decode_piece
from sonoray_jobs.towers.embed_plan import make_plan, training_images, view_keys
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource
from sonoray_jobs.towers.views import Views, views_of

SPLITS = ("train", "test", "train", "validation", "train")
BATCH = 2
VIEWS = Views(number=2, perturbations=(GainPerturbation(rate=1), ZoomPerturbation(rate=1)))
LOOKS = {"clip": Look(image_size=32)}


def picture(number):
    return np.random.default_rng(number).integers(30, 200, (40, 50), dtype=np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> list[StudyImage]:
    """A dataset of five patients, one image each."""
    table = ImageTableWriter(tmp_path)
    found = [
        table.add(
            PreparedImage(
                image=StudyImage(image_id=f"{number:064x}", uri="", width=50, height=40),
                png=encode_png(picture(number)),
                mask_png=None,
                perceptual_hash=None,
            )
        )
        for number in range(len(SPLITS))
    ]
    table.close()
    write_studies(
        tmp_path,
        [
            Study(
                study_id=f"s{number}", patient_key=f"p{number}", split=split, dataset="d",
                images=(found[number],), turns=(Turn(question="?", answer="!"),),
            )
            for number, split in enumerate(SPLITS)
        ],
    )  # fmt: skip
    return found


def encode(canvases):
    """Features that tell one canvas from another."""
    return canvases[:, ::8, ::8, 0].reshape(len(canvases), 1, -1).astype(np.float32)


def stage(folder: Path) -> TowerStage:
    store = FeatureStore(folder / "features", "clip", 1, 16, "float32")
    return TowerStage(name="clip", look=LOOKS["clip"], store=store, load=lambda: encode)


def embed(folder: Path, views: Views | None) -> FeatureStore:
    tower = stage(folder)
    actor = TowerActor(tower, batch_size=BATCH)
    for piece in make_plan(folder, {"clip": tower.store}, 4, views).pieces:
        actor(
            decode_piece(
                {"piece": piece}, folder=folder, looks=LOOKS, batch_size=BATCH, views=views
            )
        )
    return tower.store


def test_keys_name_image_view_and_perturbations_and_not_the_number_of_views():
    ids = [f"{number:064x}" for number in range(3)]
    more = Views(number=9, perturbations=VIEWS.perturbations)
    other = Views(number=2, perturbations=(GainPerturbation(rate=1, most_db=5),))
    keys = [key for views in (VIEWS, other) for view in (1, 2) for key in views.keys(ids, view)]
    assert len(set(keys)) == len(keys) == 12
    assert {len(key) for key in keys} == {64}
    assert VIEWS.keys(ids, 2) == more.keys(ids, 2)
    assert VIEWS.keys(ids, 0) == ids
    assert VIEWS.seal("d") != more.seal("d")


def test_an_epoch_sees_one_view_and_a_cycle_sees_each_once():
    for image in ("a", "b", "c"):
        seen = [VIEWS.of_epoch(image, seed=3, epoch=epoch) for epoch in range(6)]
        assert Counter(seen) == {0: 2, 1: 2, 2: 2}
        assert seen[:3] == seen[3:]
    orders = {tuple(VIEWS.of_epoch(str(n), seed=3, epoch=e) for e in range(3)) for n in range(30)}
    assert len(orders) == 6
    assert VIEWS.of_epoch("a", seed=3, epoch=1) == VIEWS.of_epoch("a", seed=3, epoch=1)


def test_views_are_of_training_images_alone(images, tmp_path):
    train = {
        image.image_id for image, split in zip(images, SPLITS, strict=True) if split == "train"
    }
    assert training_images(tmp_path) == train
    store = FeatureStore(tmp_path / "features", "clip", 1, 16, "float32")
    plan = make_plan(tmp_path, {"clip": store}, 4, VIEWS)
    assert (plan.num_images, plan.num_views) == (5, 6)
    assert plan.num_lacking("clip") == 11
    assert make_plan(tmp_path, {"clip": store}, 4).num_views == 0
    embed(tmp_path, VIEWS)
    expected = {image.image_id for image in images} | set(view_keys(tmp_path, VIEWS))
    assert len(expected) == 11
    assert store.ids() == expected
    assert not make_plan(tmp_path, {"clip": store}, 4, VIEWS).pieces
    third = Views(number=3, perturbations=VIEWS.perturbations)
    assert make_plan(tmp_path, {"clip": store}, 4, third).num_lacking("clip") == 3


def test_images_that_were_embedded_without_views_keep_their_batches(images, tmp_path):
    before = embed(tmp_path, None)
    features = before.read([image.image_id for image in images])
    store = embed(tmp_path, VIEWS)
    assert np.array_equal(store.read([image.image_id for image in images]), features)
    assert len(store.ids()) == 11


def test_stored_and_streamed_views_are_the_same_and_differ_from_the_image(images, tmp_path):
    store = embed(tmp_path, VIEWS)
    values = {"dataset": tmp_path, "stores": {"clip": store}, "views": VIEWS, "batch_size": BATCH}
    stored = FeatureReader(FeatureSource(**values))
    streamed = FeatureReader(FeatureSource(**values, streamed=(stage(tmp_path),)))
    asked, views = [images[0], images[2], images[0], images[0]], [1, 0, 2, 0]
    found = stored.read(asked, views)["clip"]
    assert np.array_equal(streamed.read(asked, views)["clip"], found)
    assert len({row.tobytes() for row in found}) == 4
    assert np.array_equal(found[3], stored.read(images[:1])["clip"][0])
    (key,) = VIEWS.keys([images[0].image_id], 1)
    expected = encode(LOOKS["clip"].canvas(VIEWS.draw(picture(0), key))[None])
    assert np.array_equal(found[0], expected[0])


def test_a_roads_views_are_those_of_its_settings():
    config = EmbedConfig(views=3, perturbations=({"type": "gain", "most_db": 3},))
    assert views_of(config) == Views(number=3, perturbations=(GainPerturbation(most_db=3),))
    assert EmbedConfig().views == 0
