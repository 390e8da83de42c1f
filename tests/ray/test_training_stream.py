"""What comes out of Ray Data is what the plan says, stored features or streamed ones."""

from pathlib import Path

import numpy as np
import pytest

from llava_ultra.testing import tiny_config, tiny_image, tiny_language, tiny_towers
from sonoray.images.decode import encode_png
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray.study.sample_order import Plan
from sonoray.study.study_index import index_studies
from sonoray_jobs.outputs.stores import stores_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.feature_source import FeatureReader, feature_source
from sonoray_jobs.training import step_loader
from sonoray_jobs.training.step_loader import StepSource
from sonoray_jobs.training.stream import iter_loaded_steps, loader_room

pytestmark = pytest.mark.ray

NUM_STUDIES = 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    table = ImageTableWriter(folder)
    studies = [
        Study(
            study_id=f"s{number}",
            patient_key="p",
            split="train",
            dataset="d",
            images=tuple(
                table.add(
                    PreparedImage(
                        image=StudyImage(image_id=f"{number}-{place}", uri="", width=1, height=1),
                        png=encode_png(tiny_image(2 * number + place)),
                        mask_png=None,
                        perceptual_hash=None,
                    )
                )
                for place in range(1 + number % 2)
            ),
            turns=(Turn(question=f"问{number}", answer="答"),),
        )
        for number in range(NUM_STUDIES)
    ]
    table.close()
    write_studies(folder, studies)
    return folder


@pytest.mark.usefixtures("ray_local")
def test_both_modes_stream_the_same_steps_in_the_order_of_the_plans(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(step_loader, "_MOST_STEPS", 2)
    config = tiny_config()
    towers = dict(zip(("clip", "sam"), tiny_towers(config, tiny_language(config)), strict=True))
    for name, tower in towers.items():
        tower.save(tmp_path / name)
    prints = {name: tower.fingerprint for name, tower in towers.items()}
    index = index_studies(dataset, split="train", only={})
    plans = tuple(
        Plan(
            num_studies=len(index),
            seed=seed,
            studies_per_step=4,
            epochs=range(2),
            rank=1,
            num_ranks=2,
        )
        for seed in (0, 1000)
    )
    streamed = {}
    for keep in ("none", "both"):
        embed = {"keep": keep, "batch_size": 4, "images_per_file": 4, "actors": 2}
        road = RoadConfig.model_validate({"model": config.model_dump(), "embed": embed})
        stores = stores_of(tmp_path / "features", road.model, road.embed, prints)
        folders = {name: tmp_path / name for name in towers}
        features = feature_source(
            road.embed, model=road.model, dataset=dataset, folders=folders, stores=stores
        )
        if keep == "none":
            images = [
                StudyImage(
                    image_id=f"{number}-{place}",
                    uri="images/part-00000.parquet",
                    width=1,
                    height=1,
                )
                for number in range(NUM_STUDIES)
                for place in range(1 + number % 2)
            ]
            expected = FeatureReader(features).read(images)
        else:
            for name, values in expected.items():
                stores[name].write([image.image_id for image in images], values)
        source = StepSource(
            features=features, index=index, plans=plans, turns_per_epoch=0, site_cue=False
        )
        assert len(source.rows()) > 1
        streamed[keep] = list(iter_loaded_steps(source, loader_room(road.train, road.embed)))
        if keep == "none":
            assert not (tmp_path / "features").exists()
    planned = [step for plan in plans for step in plan]
    place_of = {image.image_id: place for place, image in enumerate(images)}
    for steps in streamed.values():
        assert [loaded.step for loaded in steps] == planned
        for loaded in steps:
            numbers = loaded.step.studies  # the names' order is that of the numbers
            assert [row[1] for row in loaded.rows] == [[f"问{number}"] for number in numbers]
            for number, features_of in zip(numbers, loaded.features, strict=True):
                rows = [place_of[f"{number}-{place}"] for place in range(1 + number % 2)]
                assert np.array_equal(features_of.clip, expected["clip"][rows])
                assert np.array_equal(features_of.sam, expected["sam"][rows])
