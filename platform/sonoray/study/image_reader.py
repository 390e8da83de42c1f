"""Reads single images out of a dataset's image table, in any order.

A study's image names its file (`uri`); the row follows from the ids of that file, 512 of them. The
table is not compressed and its files are mapped into memory, so that an image costs its row group
of 64 and none is decoded but it. For whole runs of rows see `sonoray_jobs.towers.embed_plan`, for
images with their masks `sonoray.study.image_table`.
"""

import functools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.errors import DataError
from sonoray.images.decode import Pixels, decode_stored
from sonoray.study.contract import StudyImage

_FILES_OPEN = 16
_GROUPS_KEPT = 4


class ImageReader:
    """Decodes images of one dataset."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # for each reader its own, so that they end with it
        self._open = functools.lru_cache(_FILES_OPEN)(self._open_file)
        self._group = functools.lru_cache(_GROUPS_KEPT)(self._read_group)

    def read(self, image: StudyImage) -> Pixels:
        """Return an image, uint8 (H, W) or (H, W, 3).

        Raises:
            DataError: the table lacks it.
        """
        place = self._open(image.uri)[1].get(image.image_id)
        if place is None:
            raise DataError(
                f"image table {str(self._folder / image.uri)!r} lacks image {image.image_id!r}; "
                "ingest the data set again"
            )
        group, row = place
        return decode_stored(self._group(image.uri, group)[row].as_py())

    def _open_file(self, uri: str) -> tuple[pq.ParquetFile, dict[str, tuple[int, int]]]:
        """A file, and by image id its group and the row within."""
        if not (self._folder / uri).is_file():
            raise DataError(
                f"image table {str(self._folder / uri)!r} is missing; ingest the data set again"
            )
        file = pq.ParquetFile(self._folder / uri, memory_map=True)
        places: dict[str, tuple[int, int]] = {}
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["image_id"], use_threads=False)["image_id"]
            places |= {each: (group, row) for row, each in enumerate(ids.to_pylist())}
        return file, places

    def _read_group(self, uri: str, group: int) -> pa.ChunkedArray:
        return self._open(uri)[0].read_row_group(group, columns=["png"], use_threads=False)["png"]
