"""What every image of a dataset looks like: its perceptual hash, and who looks like it.

The hashes are those of ingest, a column of the image table; only masks are decoded, row group by
row group, on threads. The result is a stage of its own, so that another audit of the same dataset
reads no pixel. The stage is small: some 400 bytes an image.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.cluster.progress import progress
from sonoray.images.decode import decode_stored
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.image_table import iter_row_groups, read_hashes
from sonoray.study.near_duplicates import group_near_duplicates, hash_distance
from sonoray.workspace import Workspace

_FILE = "looks.parquet"
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("perceptual_hash", pa.binary()),
        ("group", pa.int64()),
        ("mask_share", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """All images of a dataset, in the order of its image table."""

    image_ids: list[str]
    positions: dict[str, int]
    """By image id: its place in all the columns."""
    hashes: list[bytes | None]
    """Perceptual hash; None for a picture without structure, which looks like nothing."""
    groups: npt.NDArray[np.int64]
    """Place of the first image of each image's near-duplicate group; its own where alone."""
    mask_shares: npt.NDArray[np.float32]
    """Share of the image that its mask marks; NaN where it has no mask."""

    @classmethod
    def read(cls, path: Path) -> "Looks":
        """Read the output of `find_looks`."""
        table = pq.read_table(path / _FILE, schema=_SCHEMA)
        ids = table["image_id"].to_pylist()
        return cls(
            image_ids=ids,
            positions={image_id: place for place, image_id in enumerate(ids)},
            hashes=table["perceptual_hash"].to_pylist(),
            groups=table["group"].to_numpy(),
            mask_shares=table["mask_share"].to_numpy(zero_copy_only=False),
        )

    def distance(self, one: int, other: int) -> int:
        """Bits in which the hashes of two images differ; a missing one counts as zeros."""
        return hash_distance(*(self.hashes[place] or b"" for place in (one, other)))


def find_looks(
    dataset: StageOutput, workspace: Workspace, *, max_distance: int, min_correlation: float
) -> StageOutput:
    """Group the images of a dataset, or return what was found before.

    Args:
        dataset: the ingest output.
        workspace: where the stage goes.
        max_distance: differing bits, of 256, up to which two images are one picture.
        min_correlation: of their detail, from which they are where more bits differ.
    """
    stage = Stage(
        name=str(dataset.manifest["name"]).replace("ingest-", "looks-", 1),
        config={"max_distance": max_distance, "min_correlation": min_correlation},
        inputs=[dataset.key],
        code=[__name__],
    )

    def make(folder: Path) -> dict[str, Any]:
        return _write(folder, dataset.path, max_distance, min_correlation)

    return run_stage(stage, workspace.stages, make)


def _write(
    folder: Path, dataset: Path, max_distance: int, min_correlation: float
) -> dict[str, Any]:
    hashes = read_hashes(dataset)
    shares = list(progress(_iter_mask_shares(dataset), "look at images", len(hashes)))
    groups = group_near_duplicates(list(hashes.values()), max_distance, min_correlation)
    values = (list(hashes), list(hashes.values()), groups, shares)
    columns = [pa.array(column, field.type) for column, field in zip(values, _SCHEMA, strict=True)]
    pq.write_table(pa.table(columns, schema=_SCHEMA), folder / _FILE)
    return {"images": len(hashes), "groups": len(set(groups))}


def _iter_mask_shares(dataset: Path) -> Iterator[float | None]:
    """Yield the mask share of every image; the masks of one row group are in memory at a time."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="audit") as pool:
        for file, group in iter_row_groups(dataset):
            masks = file.read_row_group(group, columns=["mask_png"])["mask_png"]
            yield from pool.map(_mask_share, masks.to_pylist())


def _mask_share(mask_png: bytes | None) -> float | None:
    return float(np.mean(decode_stored(mask_png) > 0)) if mask_png else None
