"""The image table of a dataset: each unique image once, as PNG, beside its lesion mask.

Ingest writes it, the embed and bootstrap stages read its Parquet files. A file holds 512 images in
row groups of 64, so that a reader's task is one file and its memory one group; PNG does not
compress further and the files are left uncompressed. A study's image points to its file by `uri`.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.prepare import PreparedImage
from sonoray.study import IMAGE_SCHEMA, StudyImage

_ROWS_PER_FILE = 512
_ROWS_PER_GROUP = 64


class ImageTableWriter:
    """Writes each unique image once, in files of bounded size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "images").mkdir()
        self._uris: dict[str, str] = {}
        self._masks: dict[str, bytes] = {}
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self.perceptual_hashes: dict[str, bytes | None] = {}
        """Perceptual hash by image id, in the order of the table."""
        self.num_mask_conflicts = 0
        """How often a later copy of an image had another mask; the first one is kept."""

    @property
    def num_images(self) -> int:
        """Unique images so far."""
        return len(self._uris)

    @property
    def num_masks(self) -> int:
        """How many of them have a mask."""
        return sum(mask != b"" for mask in self._masks.values())

    def add(self, item: PreparedImage) -> StudyImage:
        """Store the image where it is new, and return it with its uri."""
        image = item.image
        mask = hashlib.sha256(item.mask_png).digest() if item.mask_png else b""
        if image.image_id in self._uris:
            self.num_mask_conflicts += self._masks[image.image_id] != mask
        else:
            number = len(self._uris) // _ROWS_PER_FILE
            self._uris[image.image_id] = f"images/part-{number:05d}.parquet"
            self._masks[image.image_id] = mask
            self.perceptual_hashes[image.image_id] = item.perceptual_hash
            self._rows.append(
                {
                    "image_id": image.image_id,
                    "width": image.width,
                    "height": image.height,
                    "png": item.png,
                    "mask_png": item.mask_png,
                }
            )
            if len(self._rows) == _ROWS_PER_GROUP:
                self._flush()
        return dataclasses.replace(image, uri=self._uris[image.image_id])

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        """Write the buffered rows as one row group."""
        path = self._folder / self._uris[self._rows[0]["image_id"]]
        if self._writer is not None and not path.exists():
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = pq.ParquetWriter(path, IMAGE_SCHEMA, compression="none")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=IMAGE_SCHEMA))
        self._rows = []
