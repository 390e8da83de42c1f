"""The image table of a dataset: each unique image once, as PNG, with its hash and its lesion mask.

Ingest writes it; the embed and bootstrap stages, the audit and the leakage check read its Parquet
files. A file holds 512 images in row groups of 64, so that a reader's task is one file and its
memory one group; PNG does not compress further and the files are left uncompressed. A study's image
points to its file by `uri`.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.errors import DataError
from sonoray.images.decode import Pixels, decode_stored
from sonoray.study.contract import IMAGE_SCHEMA, StudyImage

_ROWS_PER_FILE = 512
_ROWS_PER_GROUP = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedImage:
    """An image that was accepted, encoded for the table."""

    image: StudyImage
    """Its reference, still without uri."""
    png: bytes
    mask_png: bytes | None
    perceptual_hash: bytes | None
    """See `near_duplicates`."""
    remarks: tuple[str, ...] = ()
    """See `RawImage.remarks`."""


class ImageTableWriter:
    """Writes each unique image once, in files of bounded size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "images").mkdir()
        self._numbers: dict[str, int] = {}
        """By image id, which image of the table it is."""
        self._masks: dict[str, bytes] = {}
        """By image id, the digest of its mask, where it has one."""
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self.num_mask_conflicts = 0
        """How often a later copy of an image had another mask; the first one is kept."""

    @property
    def num_images(self) -> int:
        """Unique images so far."""
        return len(self._numbers)

    @property
    def num_masks(self) -> int:
        """How many of them have a mask."""
        return len(self._masks)

    def add(self, item: PreparedImage) -> StudyImage:
        """Store the image where it is new, and return it with its uri."""
        image = item.image
        mask = hashlib.sha256(item.mask_png).digest() if item.mask_png else None
        if image.image_id in self._numbers:
            self.num_mask_conflicts += self._masks.get(image.image_id) != mask
        else:
            self._numbers[image.image_id] = len(self._numbers)
            if mask:
                self._masks[image.image_id] = mask
            self._rows.append(
                {
                    "image_id": image.image_id,
                    "width": image.width,
                    "height": image.height,
                    "perceptual_hash": item.perceptual_hash,
                    "png": item.png,
                    "mask_png": item.mask_png,
                }
            )
            if len(self._rows) == _ROWS_PER_GROUP:
                self._flush()
        return dataclasses.replace(image, uri=self._uri(image.image_id))

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def drop(self, image_ids: Collection[str]) -> None:
        """Remove images from the table after it was closed; their files are written anew."""
        for uri in sorted({self._uri(image_id) for image_id in image_ids}):
            path = self._folder / uri
            table = pq.read_table(path, schema=IMAGE_SCHEMA)
            rows = [
                row
                for row, image_id in enumerate(table["image_id"].to_pylist())
                if image_id not in image_ids
            ]
            rest = table.take(rows)
            pq.write_table(rest, path, row_group_size=_ROWS_PER_GROUP, compression="none")
        for image_id in image_ids:
            del self._numbers[image_id]
            self._masks.pop(image_id, None)

    def _uri(self, image_id: str) -> str:
        """The file that holds an image."""
        return f"images/part-{self._numbers[image_id] // _ROWS_PER_FILE:05d}.parquet"

    def _flush(self) -> None:
        """Write the buffered rows as one row group."""
        path = self._folder / self._uri(self._rows[0]["image_id"])
        if self._writer is not None and not path.exists():
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = pq.ParquetWriter(path, IMAGE_SCHEMA, compression="none")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=IMAGE_SCHEMA))
        self._rows = []


def iter_row_groups(folder: Path) -> Iterator[tuple[pq.ParquetFile, int]]:
    """Yield every row group of a dataset's image table, in order, as its open file and its number.

    Nothing is read yet: the caller takes the columns that it needs with `read_row_group`.
    """
    for path in sorted((folder / "images").glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file, group


def read_hashes(folder: Path) -> dict[str, bytes | None]:
    """Return the perceptual hash of every image by id, in the order of the table; no pixel is read.

    Raises:
        DataError: the table was written before images had this column.
    """
    found: dict[str, bytes | None] = {}
    for file, group in iter_row_groups(folder):
        if "perceptual_hash" not in file.schema_arrow.names:
            raise DataError(
                f"image table {str(folder / 'images')!r} has no column perceptual_hash; "
                "ingest the data set again"
            )
        rows = file.read_row_group(group, columns=["image_id", "perceptual_hash"])
        ids, hashes = (rows[name].to_pylist() for name in ("image_id", "perceptual_hash"))
        found.update(zip(ids, hashes, strict=True))
    return found


def iter_masks(folder: Path, image_ids: Collection[str]) -> Iterator[tuple[str, Pixels]]:
    """Yield id and mask, uint8 (H, W), of those images that have one, in the order of the table.

    One mask is decoded at a time, and no image.
    """
    for file, group in iter_row_groups(folder):
        for row in file.read_row_group(group, columns=["image_id", "mask_png"]).to_pylist():
            if row["mask_png"] and row["image_id"] in image_ids:
                yield row["image_id"], decode_stored(row["mask_png"])


def read_images(folder: Path, image_ids: Sequence[str]) -> dict[str, tuple[Pixels, Pixels | None]]:
    """Decode images and their masks; only the row groups that hold one of them are read.

    Returns:
        By image id, in the order of `image_ids`: the image (uint8) and its mask (uint8, (H, W)),
        None where it has none.

    Raises:
        DataError: the table lacks one of them.
    """
    wanted = dict.fromkeys(image_ids)
    found: dict[str, tuple[Pixels, Pixels | None]] = {}
    for file, group in iter_row_groups(folder):
        if len(found) == len(wanted):
            break
        ids = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
        rows = [row for row, image_id in enumerate(ids) if image_id in wanted]
        if not rows:
            continue
        columns = ["image_id", "png", "mask_png"]
        for row in file.read_row_group(group, columns=columns).take(rows).to_pylist():
            mask = decode_stored(row["mask_png"]) if row["mask_png"] else None
            found[row["image_id"]] = (decode_stored(row["png"]), mask)
    if missing := [image_id for image_id in wanted if image_id not in found]:
        raise DataError(
            f"image table {str(folder / 'images')!r} lacks {len(missing)} of {len(wanted)} images "
            f"(first {missing[0]!r}); ingest the data set again"
        )
    return {image_id: found[image_id] for image_id in wanted}
