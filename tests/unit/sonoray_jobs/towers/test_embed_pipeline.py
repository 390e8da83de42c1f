"""The steps of the embed pipeline as plain calls, without Ray: what each writes and hands on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_ultra.testing import tiny_image
from llava_ultra.towers.pixels import letterbox
from sonoray.features.store import FeatureStore
from sonoray.images.decode import encode_png
from sonoray_jobs.towers.embed_pipeline import Look, Row, TowerActor, TowerStage, decode_piece
from sonoray_jobs.towers.embed_plan import Piece, make_plan

SIZES = {"clip": 32, "sam": 48}
LOOKS = {name: Look(image_size=size) for name, size in SIZES.items()}
IMAGES = [tiny_image(number) for number in range(3)]
PIECE = Piece(file="images/part-00000.parquet", start=0, stop=3, lacking={"clip": 0b101, "sam": 2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    table = pa.table({"image_id": ["a", "b", "c"], "png": [encode_png(each) for each in IMAGES]})
    pq.write_table(table, tmp_path / "images" / "part-00000.parquet")
    return tmp_path


def decode(folder: Path, piece: Piece, batch_size: int = 2) -> Row:
    return decode_piece({"piece": piece}, folder=folder, looks=LOOKS, batch_size=batch_size)


def actor(folder: Path, calls: list[np.ndarray]) -> TowerActor:
    def encode(canvases: np.ndarray) -> np.ndarray:
        calls.append(canvases)
        return canvases.mean(axis=(1, 2, 3)).reshape(-1, 1, 1)

    store = FeatureStore(folder / "features", "clip", 1, 1, "float32")
    stage = TowerStage(name="clip", look=Look(image_size=32), store=store, load=lambda: encode)
    return TowerActor(stage, batch_size=2)


def test_a_tower_gets_the_canvases_of_the_images_that_it_lacks(folder):
    row = decode(folder, PIECE)
    for tower, places in (("clip", (0, 2)), ("sam", (1,))):
        expected = np.stack([letterbox(IMAGES[place], SIZES[tower]) for place in places])
        assert np.array_equal(row[f"canvases.{tower}"], expected)
    assert (row["ids.clip"], row["ids.sam"], row["num_images"]) == ("a\nc", "b", 3)
    assert decode(folder, PIECE, batch_size=3)["ids.clip"] == "a c"


def test_a_tower_writes_what_it_computed_and_passes_the_rest_on(folder):
    calls: list[np.ndarray] = []
    clip = actor(folder, calls)
    row = clip(decode(folder, PIECE))
    assert row["computed.clip"] == 2
    assert {"ids.sam", "canvases.sam", "busy_s.decode", "busy_s.clip"} < set(row)
    assert not {"ids.clip", "canvases.clip"} & set(row)
    assert min(row["busy_s.clip"], row["busy_s.write"]) > 0
    assert [len(canvases) for canvases in calls] == [2, 2]  # filled up
    assert not any(canvases[1].any() for canvases in calls)
    store = FeatureStore(folder / "features", "clip", 1, 1, "float32")
    means = [letterbox(IMAGES[place], 32).mean() for place in (0, 2)]
    assert store.read(["a", "c"]).ravel() == pytest.approx(means, rel=1e-6)


def test_one_actor_runs_all_its_towers(folder):
    stages = [
        TowerStage(
            name=name,
            look=Look(image_size=size),
            store=FeatureStore(folder / "features", name, 1, 1, "float32"),
            load=lambda: lambda canvases: canvases.mean(axis=(1, 2, 3)).reshape(-1, 1, 1),
        )
        for name, size in SIZES.items()
    ]
    row = TowerActor(*stages, batch_size=2)(decode(folder, PIECE))
    assert (row["computed.clip"], row["computed.sam"]) == (2, 1)
    assert not [key for key in row if key.startswith(("ids.", "canvases."))]
    for stage, places in zip(stages, ((0, 2), (1,)), strict=True):
        means = [letterbox(IMAGES[place], stage.look.image_size).mean() for place in places]
        assert stage.store.read(["abc"[place] for place in places]).ravel() == pytest.approx(means)


def test_a_piece_that_comes_again_after_its_commit_is_not_computed_again(folder):
    calls: list[np.ndarray] = []
    for _ in range(2):  # the second actor is started after the first one died
        row = actor(folder, calls)(decode(folder, PIECE))
        assert row["computed.clip"] == 2
    assert len(calls) == 2


def test_a_file_of_several_forward_batches_holds_the_same_bits(folder, tmp_path):
    """A tower whose outputs tell what was computed together, in files of one batch and of many."""

    def encode(canvases: np.ndarray) -> np.ndarray:
        means = canvases.mean(axis=(1, 2, 3), dtype=np.float32)
        return np.stack([means, np.full_like(means, means.sum())], axis=-1)[:, None]

    read = []
    for images_per_file in (2, 4):
        store = FeatureStore(tmp_path / f"{images_per_file}", "clip", 1, 2, "float32")
        stage = TowerStage(name="clip", look=Look(image_size=32), store=store, load=lambda: encode)
        clip = TowerActor(stage, batch_size=2)
        for piece in make_plan(folder, {"clip": store}, images_per_file).pieces:
            clip(decode(folder, piece))
        read.append(store.read(["a", "b", "c"]))
        assert len(list(Path(store.place).glob("batch-*"))) == 4 // images_per_file
    assert read[0].tobytes() == read[1].tobytes()
    together = read[0][:, 0, 1]
    assert together[0] == together[1] != together[2]


def test_a_tower_that_lacks_nothing_of_a_piece_does_nothing(folder):
    piece = Piece(file=PIECE.file, start=0, stop=3, lacking={"sam": 7})
    calls: list[np.ndarray] = []
    row = actor(folder, calls)(decode(folder, piece))
    assert (row["computed.clip"], calls) == (0, [])
    assert not (folder / "features" / "clip").exists()
