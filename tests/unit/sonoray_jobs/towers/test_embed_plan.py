"""The plan of an embed job: each row that a store lacks in one piece, and pieces that stay."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.features.store import FeatureStore
from sonoray_jobs.towers.embed_plan import Piece, make_plan, read_piece

FILES = (9, 5)
"""Rows of the two files of the table."""
IDS = [[f"{file}-{row}" for row in range(size)] for file, size in enumerate(FILES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image table with row groups of 4."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "images").mkdir()
    for number, ids in enumerate(IDS):
        table = pa.table({"image_id": ids, "png": [each.encode() for each in ids]})
        pq.write_table(table, folder / "images" / f"part-{number:05d}.parquet", row_group_size=4)
    return folder


def store_with(root: Path, ids: set[str]) -> FeatureStore:
    store = FeatureStore(root, "tower", 1, 1)
    store.write(sorted(ids), np.zeros((len(ids), 1, 1), np.float16))
    return store


committed = st.sets(st.sampled_from([each for ids in IDS for each in ids]))


@settings(deadline=None, max_examples=40)
@given(clip=committed, sam=committed, size=st.integers(1, 12), batch_size=st.integers(1, 5))
def test_every_lacking_row_stands_in_one_piece(
    folder, tmp_path_factory, clip, sam, size, batch_size
):
    root = tmp_path_factory.mktemp("stores")
    stores = {name: store_with(root / name, ids) for name, ids in (("clip", clip), ("sam", sam))}
    plan = make_plan(folder, stores, size)
    assert plan.num_images == sum(FILES)
    found: dict[str, list[str]] = {"clip": [], "sam": []}
    for piece in plan.pieces:
        assert piece.start % size == 0
        assert 0 < piece.stop - piece.start <= size
        rows = list(read_piece(folder, piece))
        ids = IDS[int(Path(piece.file).stem[-1])]
        assert [image_id for image_id, _ in rows] == ids[piece.start : piece.stop]
        assert all(png == image_id.encode() for image_id, png in rows)
        assert piece.lacking
        for tower in found:
            found[tower] += [rows[place][0] for place in piece.places(tower)]
            batches = piece.batches(tower, batch_size)
            assert [place for batch in batches for place in batch] == piece.places(tower)
            for batch in batches:
                assert len({(piece.start + place) // batch_size for place in batch}) == 1
    for tower, ids in (("clip", clip), ("sam", sam)):
        assert sorted(found[tower]) == sorted({each for file in IDS for each in file} - ids)
        assert plan.num_lacking(tower) == sum(FILES) - len(ids)
    assert plan.num_rows == sum(piece.stop - piece.start for piece in plan.pieces)


def test_what_was_committed_changes_no_other_piece(folder, tmp_path):
    """The batches of a job that goes on are those of the job that was never stopped."""
    whole = make_plan(folder, {"clip": FeatureStore(tmp_path, "empty", 1, 1)}, 4)
    assert [(piece.file, piece.start, piece.stop) for piece in whole.pieces] == [
        ("images/part-00000.parquet", 0, 4),
        ("images/part-00000.parquet", 4, 8),
        ("images/part-00000.parquet", 8, 9),
        ("images/part-00001.parquet", 0, 4),
        ("images/part-00001.parquet", 4, 5),
    ]
    left = make_plan(folder, {"clip": store_with(tmp_path, set(IDS[0][4:8]))}, 4)
    assert left.pieces == (whole.pieces[0], *whole.pieces[2:])


def test_forward_batches_are_the_same_however_many_images_a_file_has(folder, tmp_path):
    """Also where some of them were committed before."""
    stores = {"clip": store_with(tmp_path, {IDS[0][2], IDS[0][6], IDS[0][7], IDS[1][0]})}

    def batches(images_per_file: int) -> list[list[str]]:
        return [
            [IDS[int(Path(piece.file).stem[-1])][piece.start + place] for place in batch]
            for piece in make_plan(folder, stores, images_per_file).pieces
            for batch in piece.batches("clip", 2)
        ]

    assert [len(batch) for batch in batches(2)] == [2, 1, 2, 1, 1, 2, 1]
    assert batches(2) == batches(4) == batches(8) == batches(512)


def test_a_piece_within_a_row_group_and_across_two(folder):
    def ids(start: int, stop: int) -> list[str]:
        piece = Piece(file="images/part-00000.parquet", start=start, stop=stop, lacking={})
        return [image_id for image_id, _ in read_piece(folder, piece)]

    for start in range(9):
        for stop in range(start + 1, 10):
            assert ids(start, stop) == IDS[0][start:stop]
