"""Parts: prepared studies on disk, in immutable files, until their dataset stands.

Where several processes prepare a source (`sonoray_jobs.data.ingest_pipeline`), each writes what it
prepared as part files, and the dataset is made of these in the order of the source. A part is there
whole or not at all, and is never written twice: a killed run leaves finished parts, which the next
one takes as they are.

A part holds one row for each study, followed by one for each of its images: PNG bytes as the image
table has them, everything else as JSON. It names nobody (`sonoray.ingest.prepare`). Row groups hold
at most 64 rows or some 32 MB, so that reading needs little memory, however many images a study has.

The folder of a dataset's parts has mode 0700 and one process at a time; the kernel frees it when
that ends, whatever ends it. It goes when the dataset stands.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from sonoray.errors import DataError
from sonoray.ingest.prepare import Outcome, PreparedStudy, RejectedImage
from sonoray.study.image_table import PreparedImage

_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("image", pa.string()),
        ("reject", pa.string()),
        ("png", pa.binary()),
        ("mask_png", pa.binary()),
        ("perceptual_hash", pa.binary()),
    ]
)
_BINARY = ("png", "mask_png", "perceptual_hash")
_ROWS_PER_GROUP = 64
_BYTES_PER_GROUP = 32_000_000
_LOCK = ".lock"
_PARTIAL = ".partial"

_STUDY = TypeAdapter(PreparedStudy)
_IMAGE = TypeAdapter(PreparedImage)
_REJECT = TypeAdapter(RejectedImage)


def part_name(number: int) -> str:
    """What the file of a batch is called."""
    return f"part-{number:06d}.parquet"


def write_part(path: Path, studies: Iterable[PreparedStudy]) -> None:
    """Write studies as they come, and give the file its name when all are on disk."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        with (
            os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
            pq.ParquetWriter(file, _SCHEMA, compression="none") as writer,
        ):
            for rows in _groups(row for study in studies for row in _to_rows(study)):
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_part(path: Path) -> Iterator[PreparedStudy]:
    """Yield the studies of a part in the order in which they were written."""
    study: PreparedStudy | None = None
    outcomes: list[Outcome] = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                if row["study"] is None:
                    outcomes.append(_to_outcome(row))
                    continue
                if study is not None:
                    yield replace(study, outcomes=tuple(outcomes))
                study, outcomes = _STUDY.validate_json(row["study"]), []
    if study is not None:
        yield replace(study, outcomes=tuple(outcomes))


@contextlib.contextmanager
def open_parts(folder: Path) -> Iterator[None]:
    """Hold the folder of a dataset's parts, which is made where it does not exist.

    Raises:
        DataError: another process uses it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = FileLock(folder / _LOCK, mode=0o600, fallback_to_soft=False).acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another ingest uses the parts {str(folder)!r}; wait for it, or give this one another "
            "--name"
        ) from None
    except OSError as error:
        raise DataError(
            f"the parts {str(folder)!r} cannot be made ({error.strerror}); choose another "
            "--workspace"
        ) from None
    with held:
        yield


def remove_parts(folder: Path, *, keep: str = "") -> None:
    """Remove all parts in an opened folder, and the folder; or all but those of a stage."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != keep:
            shutil.rmtree(path)
    if not keep:
        (folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # network file systems keep the open lock a little
            folder.rmdir()


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(row.get(name) or b"") for name in _BINARY)
        if len(group) == _ROWS_PER_GROUP or size > _BYTES_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _to_rows(study: PreparedStudy) -> Iterator[dict[str, Any]]:
    yield {"study": _STUDY.dump_json(replace(study, outcomes=())).decode()}
    for outcome in study.outcomes:
        if isinstance(outcome, RejectedImage):
            yield {"reject": _REJECT.dump_json(outcome).decode()}
        else:
            told = _IMAGE.dump_json(outcome, exclude=set(_BINARY)).decode()
            yield {"image": told, **{name: getattr(outcome, name) for name in _BINARY}}


def _to_outcome(row: dict[str, Any]) -> Outcome:
    if row["reject"] is not None:
        return _REJECT.validate_json(row["reject"])
    values = json.loads(row["image"])
    return _IMAGE.validate_python(values | {name: row[name] for name in _BINARY})
