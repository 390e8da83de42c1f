"""Stored and streamed features of the same images: equal, to the bit."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from llava_ultra.testing import tiny_config, tiny_image, tiny_language, tiny_towers
from llava_ultra.towers.tower import encode_canvases
from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.images.decode import encode_png
from sonoray.study.contract import StudyImage
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray_jobs.outputs.stores import TOWERS, stores_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.embed_pipeline import Look, TowerActor, TowerStage, decode_piece
from sonoray_jobs.towers.embed_plan import make_plan
from sonoray_jobs.towers.feature_source import (
    FeatureReader,
    FeatureSource,
    feature_source,
    load_encoder,
)

COUNT, BATCH = 7, 3


def encode(tower, calls: list[int], canvases: np.ndarray) -> np.ndarray:
    calls.append(len(canvases))
    return encode_canvases(tower, canvases, "cpu").detach().numpy()


@pytest.fixture
def images(tmp_path: Path) -> list[StudyImage]:
    table = ImageTableWriter(tmp_path)
    found = [
        table.add(
            PreparedImage(
                image=StudyImage(image_id=f"i{number}", uri="", width=1, height=1),
                png=encode_png(tiny_image(number)),
                mask_png=None,
                perceptual_hash=None,
            )
        )
        for number in range(COUNT)
    ]
    table.close()
    return found


def stages_of(folder: Path, calls: list[int], kept_as: str = "float16") -> list[TowerStage]:
    config = tiny_config()
    made = tiny_towers(config, tiny_language(config))
    return [
        TowerStage(
            name=name,
            look=Look(image_size=tower.image_size),
            store=FeatureStore(folder, name, config.num_tokens, tower.num_channels, kept_as),
            load=lambda tower=tower: partial(encode, tower, calls),
        )
        for name, tower in zip(("clip", "sam"), made, strict=True)
    ]


def source_of(dataset: Path, stages: list[TowerStage], *streamed: str) -> FeatureSource:
    return FeatureSource(
        dataset=dataset,
        stores={stage.name: stage.store for stage in stages},
        streamed=tuple(stage for stage in stages if stage.name in streamed),
        batch_size=BATCH,
    )


@pytest.mark.parametrize("kept_as", ["float16", "int8"])
@pytest.mark.parametrize("streamed", [("clip", "sam"), ("clip",), ("sam",)])
def test_streamed_features_are_the_stored_ones_to_the_bit(images, tmp_path, streamed, kept_as):
    stages = stages_of(tmp_path / "features", [], kept_as)
    actor = TowerActor(*stages, batch_size=BATCH)
    looks = {stage.name: stage.look for stage in stages}
    stores = {stage.name: stage.store for stage in stages}
    for piece in make_plan(tmp_path, stores, images_per_file=6).pieces:
        actor(decode_piece({"piece": piece}, folder=tmp_path, looks=looks, batch_size=BATCH))
    stored = FeatureReader(source_of(tmp_path, stages))
    reader = FeatureReader(source_of(tmp_path, stages, *streamed))
    for order in ([4], [6, 0], [0, 1, 2], [5, 3, 1, 5, 0, 6, 2, 4]):
        asked = [images[number] for number in order]
        expected, found = stored.read(asked), reader.read(asked)
        assert list(found) == list(expected) == ["clip", "sam"]
        for tower, values in expected.items():
            assert found[tower].dtype == values.dtype == stores[tower].dtype
            assert found[tower].tobytes() == values.tobytes()
            assert values.any()


def test_nothing_is_written_and_each_image_is_computed_once_in_full_batches(images, tmp_path):
    calls: list[int] = []
    stages = stages_of(tmp_path / "features", calls)
    reader = FeatureReader(source_of(tmp_path, stages, "clip", "sam"))
    features = reader.read([*images[:4], *images[:4]])
    assert calls == 4 * [BATCH]  # two towers, four images, three at a time
    assert {len(values) for values in features.values()} == {8}
    assert not (tmp_path / "features").exists()


def test_what_is_kept_is_read_and_missed_where_it_is_not_there(images, tmp_path):
    calls: list[int] = []
    reader = FeatureReader(source_of(tmp_path, stages_of(tmp_path / "features", calls), "sam"))
    with pytest.raises(DataError, match=r"1 of 1 images have no features in .*clip"):
        reader.read(images[:1])
    assert calls == []


def test_features_that_the_format_cannot_hold_are_refused(images, tmp_path):
    stages = stages_of(tmp_path / "features", [])
    huge = replace(
        stages[0],
        load=lambda: lambda canvases: np.full((len(canvases), *stages[0].store.shape), 1e6),
    )
    source = source_of(tmp_path, [huge, stages[1]], "clip", "sam")
    with pytest.raises(DataError, match="not finite as float16"):
        FeatureReader(source).read(images[:1])


def test_a_study_gets_the_features_of_its_images(images, tmp_path):
    reader = FeatureReader(source_of(tmp_path, stages_of(tmp_path, []), "clip", "sam"))
    whole = reader.read(images)
    one, two = reader.read_studies([images[:2], images[2:]])
    assert np.array_equal(np.concatenate([one.clip, two.clip]), whole["clip"])
    assert np.array_equal(np.concatenate([one.sam, two.sam]), whole["sam"])
    assert len(one.clip) == len(one.sam) == 2


@pytest.mark.parametrize("tower", [0, 1])
def test_features_of_an_exchanged_tower_are_not_written(tower, tmp_path):
    """Complete and consistent in itself, but not the one that the store was made for."""
    config = tiny_config()
    name = TOWERS[tower]
    right, other = (tiny_towers(config, tiny_language(config), seed)[tower] for seed in (0, 1))
    store = FeatureStore(
        tmp_path / "features", right.fingerprint, right.num_tokens, right.num_channels
    )
    right.save(tmp_path / "part")
    load_encoder(name, tmp_path / "part", store, "cpu")
    other.save(tmp_path / "part")
    with pytest.raises(ValueError, match=f"{other.fingerprint[:16]} does not match the expected"):
        load_encoder(name, tmp_path / "part", store, "cpu")


LOAD = """
import sys
from pathlib import Path
from sonoray.features.store import FeatureStore
from sonoray_jobs.towers.feature_source import load_encoder
folder, fingerprint, tokens, channels = sys.argv[1:]
store = FeatureStore(Path(folder), fingerprint, int(tokens), int(channels))
load_encoder("sam", Path(folder) / "part", store, "cpu")
print(*sys.modules)
"""


def test_an_actor_with_sam_alone_does_not_import_clips_library(tmp_path):
    config = tiny_config()
    _, sam = tiny_towers(config, tiny_language(config))
    sam.save(tmp_path / "part")
    given = [str(tmp_path), sam.fingerprint, str(sam.num_tokens), str(sam.num_channels)]
    child = subprocess.run(
        [sys.executable, "-c", LOAD, *given], capture_output=True, text=True, check=True
    )
    loaded = set(child.stdout.split())
    assert "segment_anything" in loaded
    assert not {"open_clip", "transformers"} & loaded


@pytest.mark.parametrize(
    ("keep", "streamed"),
    [("both", []), ("clip", ["sam"]), ("sam", ["clip"]), ("none", ["clip", "sam"])],
)
def test_a_job_runs_the_towers_that_are_not_kept(keep, streamed, tmp_path):
    road = RoadConfig(embed={"keep": keep, "batch_size": 32, "images_per_file": 32})
    folders = {tower: tmp_path / tower for tower in TOWERS}
    stores = stores_of(tmp_path, road.model, road.embed, {tower: tower for tower in TOWERS})
    source = feature_source(
        road.embed, model=road.model, dataset=Path("dataset"), folders=folders, stores=stores
    )
    assert [stage.name for stage in source.streamed] == streamed
    assert (source.batch_size, list(source.stores)) == (32, list(TOWERS))


IMPORTS = """
import sys
import sonoray_jobs.training.stream
print(*sys.modules)
"""


def test_a_loader_that_only_reads_imports_no_torch():
    child = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    loaded = set(child.stdout.split())
    assert "sonoray_jobs.training.step_loader" in loaded
    assert not {"torch", "transformers", "open_clip", "segment_anything"} & loaded
