"""What an embed job has to do: the images that a store lacks, cut into pieces of fixed content.

A piece is a run of rows of one file of the image table, at most `images_per_file` of them and
aligned to it: the images as they are, or one of their views (`sonoray_jobs.towers.views`). What it
lacks becomes one file of each tower's store, computed in forward batches that are aligned too. The
table decides what is computed and committed together, never timing: a job that was killed and run
again writes the same files, with the same bytes, as one that was not. And as a piece holds whole
forward batches, features are the same however many images a file has.

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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sonoray.features.store import FeatureStore
from sonoray.study.contract import study_files
from sonoray_jobs.towers.views import Views


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows of the image table whose features are committed together."""

    file: str
    """Relative to the dataset folder."""
    start: int
    """First row."""
    stop: int
    """Row after the last one."""
    view: int = 0
    """Which view of the images; 0: the images themselves."""
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
    num_views: int
    """Views of them that are wanted, beside themselves."""
    pieces: tuple[Piece, ...]

    def num_lacking(self, tower: str) -> int:
        """Images whose features the tower's store lacks."""
        return sum(piece.lacking.get(tower, 0).bit_count() for piece in self.pieces)

    @property
    def num_rows(self) -> int:
        """Images of all pieces."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def make_plan(
    folder: Path,
    stores: Mapping[str, FeatureStore],
    images_per_file: int,
    views: Views | None = None,
) -> Plan:
    """Compare the image table of a dataset folder with the stores, by tower.

    Args:
        folder: dataset folder.
        stores: by tower.
        images_per_file: rows of a piece, at most.
        views: what else is wanted of the images of training patients.
    """
    committed = {tower: store.ids() for tower, store in stores.items()}
    varied = training_images(folder) if views else set()
    num_images, num_views, pieces = 0, 0, []
    for file in sorted((folder / "images").glob("part-*.parquet")):
        ids = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
        num_images += len(ids)
        for start in range(0, len(ids), images_per_file):
            rows = ids[start : start + images_per_file]
            for view in range(1 + (views.number if views else 0)):
                keys = views.keys(rows, view) if views else rows
                wanted = [not view or each in varied for each in rows]
                num_views += sum(wanted) if view else 0
                bits = {
                    tower: sum(
                        1 << place
                        for place, (key, is_wanted) in enumerate(zip(keys, wanted, strict=True))
                        if is_wanted and key not in known
                    )
                    for tower, known in committed.items()
                }
                lacking = {tower: mask for tower, mask in bits.items() if mask}
                if lacking:
                    name, stop = str(file.relative_to(folder)), start + len(rows)
                    pieces.append(
                        Piece(file=name, start=start, stop=stop, view=view, lacking=lacking)
                    )
    return Plan(num_images=num_images, num_views=num_views, pieces=tuple(pieces))


def training_images(folder: Path) -> set[str]:
    """Ids of the images of a dataset's training patients; the texts of the table are not read."""
    found: set[str] = set()
    for file in study_files(folder):
        with pq.ParquetFile(file, memory_map=True) as parquet:
            table = parquet.read(columns=["split", "images.list.element.image_id"])
        chosen = table.filter(pc.equal(table["split"], "train"))["images"]
        images = pc.list_flatten(chosen)
        found.update(pc.struct_field(images, "image_id").to_pylist())
    return found


def view_keys(folder: Path, views: Views) -> list[str]:
    """Keys of all views of a dataset's training images."""
    ids = sorted(training_images(folder))
    return [key for view in range(1, views.number + 1) for key in views.keys(ids, view)]


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
