"""What an embed job has to do: the images that a store lacks, cut into pieces of fixed content.

A piece is a run of rows of one file of the image table, at most `images_per_file` of them and
aligned to it. What it lacks becomes one file of each tower's store, computed in forward batches
that are aligned too. The table decides what is computed and committed together, never timing: a job
that was killed and run again writes the same files, with the same bytes, as one that was not. And
as a piece holds whole forward batches, features are the same however many images a file has.

The plan is made where memory may grow with the archive, in a Ray task, and holds one small entry
per piece. The driver of a job over a million images, 64 a file, holds 16 thousand entries and no
id.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.features.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows of the image table whose features are committed together."""

    file: str
    """Relative to the dataset folder."""
    start: int
    """First row."""
    stop: int
    """Row after the last one."""
    lacking: Mapping[str, int]
    """By tower: bit n is set where its store lacks row `start + n`; only towers that lack some."""

    def places(self, tower: str) -> list[int]:
        """The rows that a tower's store lacks, counted from `start`."""
        bits = self.lacking.get(tower, 0)
        return [place for place in range(self.stop - self.start) if bits >> place & 1]

    def batches(self, tower: str, batch_size: int) -> list[list[int]]:
        """The same by forward batch: what is lacking of each `batch_size` rows of the table."""
        grouped = itertools.groupby(
            self.places(tower), lambda place: (self.start + place) // batch_size
        )
        return [list(places) for _, places in grouped]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All the work of a job."""

    num_images: int
    """Unique images of the dataset."""
    pieces: tuple[Piece, ...]

    def num_lacking(self, tower: str) -> int:
        """Images whose features the tower's store lacks."""
        return sum(piece.lacking.get(tower, 0).bit_count() for piece in self.pieces)

    @property
    def num_rows(self) -> int:
        """Images of all pieces."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def make_plan(folder: Path, stores: Mapping[str, FeatureStore], images_per_file: int) -> Plan:
    """Compare the image table of a dataset folder with the stores, by tower."""
    committed = {tower: store.ids() for tower, store in stores.items()}
    num_images, pieces = 0, []
    for file in sorted((folder / "images").glob("part-*.parquet")):
        ids = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
        num_images += len(ids)
        for start in range(0, len(ids), images_per_file):
            rows = ids[start : start + images_per_file]
            bits = {
                tower: sum(1 << place for place, each in enumerate(rows) if each not in known)
                for tower, known in committed.items()
            }
            lacking = {tower: mask for tower, mask in bits.items() if mask}
            if lacking:
                name = str(file.relative_to(folder))
                stop = start + len(rows)
                pieces.append(Piece(file=name, start=start, stop=stop, lacking=lacking))
    return Plan(num_images=num_images, pieces=tuple(pieces))


def read_piece(folder: Path, piece: Piece) -> Iterator[tuple[str, bytes]]:
    """Yield id and PNG of each row of a piece; only the row groups that it touches are read."""
    file = pq.ParquetFile(folder / piece.file)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = list(itertools.accumulate(sizes))
    first, last = bisect_right(ends, piece.start), bisect_left(ends, piece.stop)
    table: pa.Table = file.read_row_groups(range(first, last + 1), columns=["image_id", "png"])
    skipped = piece.start - (ends[first] - sizes[first])
    for row in table.slice(skipped, piece.stop - piece.start).to_pylist():
        yield row["image_id"], row["png"]
