"""Where a dataset's studies lie in its table, and reading some of them.

Training goes through the studies in an order of its own, epoch after epoch, so that it needs a
place for each and the texts of a few. A `StudyIndex` holds four bytes a study: its row in the table
(`sonoray.study.contract`), in the order of study ids. A `StudyReader` takes studies out of the
Parquet files, which it maps into memory, a row group at a time. It keeps the last groups decoded: a
dataset of up to 8,000 studies is decoded once, and of a larger one a study costs its group each
time, 1.2 ms of a core (50,000 studies of eight turns, groups of 128 rows; 19 ms with groups of
2,048).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sonoray.study.contract import STUDY_SCHEMA, Study, study_files

_GROUPS_KEPT = 64
"""Decoded row groups, 128 studies each: 17 MB of the texts above."""
_FILES_OPEN = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StudyIndex:
    """Rows of chosen studies, in the order of their ids."""

    rows: npt.NDArray[np.uint32]
    """`(N,)`: the row of each, counted through all files of the table."""
    ends: tuple[int, ...]
    """The row after the last one of each file."""
    images_per_study: float
    """The mean over the studies of these labels; 0 where there are none."""

    def __len__(self) -> int:
        return len(self.rows)


def index_studies(
    folder: Path,
    *,
    split: str,
    only: Mapping[str, str],
    most: int = 0,
    hold_out: Mapping[str, Sequence[str]] | None = None,
) -> StudyIndex:
    """Find the complete studies of a split; the texts of the table are not read.

    Args:
        folder: dataset folder.
        split: whose patients.
        only: labels that a study must have, by name; all of them where several are given.
        most: the first studies of the table that are taken; 0 takes all.
        hold_out: values that a study must not have, by label.

    Raises:
        DataError: the folder holds no study table.
    """
    ids, rows, ends = [], [], []
    end = num_images = 0
    columns = ["study_id", "split", "images.list.element.width", "turns.list.element.task"]
    for file in study_files(folder):
        with pq.ParquetFile(file, memory_map=True) as parquet:
            table = parquet.read(columns=[*columns, *(["labels"] if only or hold_out else [])])
        chosen = pc.equal(table["split"], split)
        for parts in ("images", "turns"):
            full = pc.greater(pc.fill_null(pc.list_value_length(table[parts]), 0), 0)
            chosen = pc.and_(chosen, full)
        for label, value in only.items():
            held = pc.map_lookup(table["labels"], pa.scalar(label), "last")
            chosen = pc.and_(chosen, pc.fill_null(pc.equal(held, value), False))
        for label, values in (hold_out or {}).items():
            held = pc.map_lookup(table["labels"], pa.scalar(label), "last")
            among = pc.is_in(held, value_set=pa.array(values, pa.string()))
            chosen = pc.and_(chosen, pc.invert(among))
        found = pc.indices_nonzero(chosen)
        num_images += len(pc.list_flatten(table["images"].take(found)))
        ids += table["study_id"].take(found).chunks
        rows.append(found.to_numpy().astype(np.uint32) + np.uint32(end))
        end += table.num_rows
        ends.append(end)
    names = pa.chunked_array(ids, pa.string())
    images_per_study = num_images / max(1, len(names))
    order = pc.sort_indices(names.slice(0, most or None)).to_numpy()
    return StudyIndex(
        rows=np.concatenate(rows)[order], ends=tuple(ends), images_per_study=images_per_study
    )


class StudyReader:
    """Reads the studies of an index, in any order."""

    def __init__(self, folder: Path, index: StudyIndex) -> None:
        self._files = study_files(folder)
        self._index = index
        self._starts = np.array([0, *index.ends])
        # for each reader its own, so that they end with it
        self._open = functools.lru_cache(_FILES_OPEN)(self._open_file)
        self._group = functools.lru_cache(_GROUPS_KEPT)(self._read_group)

    def read(self, positions: Sequence[int]) -> list[Study]:
        """Return the studies at these positions of the index, in their order."""
        return [self._study(int(self._index.rows[position])) for position in positions]

    def _study(self, row: int) -> Study:
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        within = row - int(self._starts[file])
        ends = self._open(file)[1]
        group = int(np.searchsorted(ends, within, side="right"))
        start = int(ends[group - 1]) if group else 0
        return Study.from_row(self._group(file, group).slice(within - start, 1).to_pylist()[0])

    def _open_file(self, number: int) -> tuple[pq.ParquetFile, npt.NDArray[np.int64]]:
        """A file, and the row after the last one of each of its groups."""
        file = pq.ParquetFile(self._files[number], memory_map=True)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return file, np.cumsum(sizes)

    def _read_group(self, number: int, group: int) -> pa.Table:
        # in this thread: a group is read in less time than others take to start
        return self._open(number)[0].read_row_group(
            group, columns=STUDY_SCHEMA.names, use_threads=False
        )
