"""Kept studies on disk, while what their splits hang on is not known yet.

An archive's study rows would take some 5 KB each in memory. They wait in one Parquet file of the
dataset's folder instead, are read as often as something asks about all of them, and get their
splits on the last way through (`sonoray.ingest.split_studies`).
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.study.contract import STUDY_SCHEMA, Study

_SCHEMA = STUDY_SCHEMA.append(pa.field("source_ref", pa.string()))
_ROWS_PER_GROUP = 256


class TableWriter:
    """Writes a Parquet table row by row; one row group is held at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._rows: list[dict[str, Any]] = []
        self.num_rows = 0

    def add(self, row: dict[str, Any]) -> None:
        """Put a row behind the others."""
        self.num_rows += 1
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left; none can be added after that."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


class KeptStudies:
    """Studies in the order in which they were added; iterated any number of times once closed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"kept-{uuid.uuid4().hex[:8]}.parquet"
        self._table = TableWriter(self._path, _SCHEMA)
        self.num_images = 0
        """Of all studies together."""

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[Study]:
        return (study for study, _ in self.with_refs())

    def with_refs(self) -> Iterator[tuple[Study, str]]:
        """Yield each study with the reference to what it was made of."""
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
                for row in batch.to_pylist():
                    yield Study.from_row(row), row["source_ref"]

    def add(self, study: Study, source_ref: str) -> None:
        """Put a study behind the others."""
        self._table.add(study.to_row() | {"source_ref": source_ref})
        self.num_images += len(study.images)

    def close(self) -> None:
        """Make them ready to be read; none can be added after that."""
        self._table.close()

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink()
