"""The rows of a dataset's quarantine table: read from its folder, and shown to a person."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonoray.errors import DataError
from sonoray.metrics.tables import Table

_HASH = re.compile("[0-9a-f]{64}")
_HASH_SHOWN = 12
"""Digits of a hashed name that a person sees; `--json` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """One row of the quarantine table."""

    item: str
    """`study`, `image`, or `row` of a table."""
    source_ref: str
    """A path within the source of a public set, a keyed hash for a private one."""
    study_id: str
    """The study that it is, or belongs to."""
    reason: str
    message: str


def read_rejects(folder: Path) -> list[Reject]:
    """Read the quarantine table of a dataset folder.

    Raises:
        DataError: it is missing, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / "quarantine.parquet").to_pylist()
        return [Reject(**row) for row in rows]
    except (OSError, pa.ArrowInvalid, TypeError):
        raise DataError(
            f"dataset folder {str(folder)!r} has no quarantine table that this version reads; "
            "run: sonoray ingest"
        ) from None


def has_hashes(rows: Sequence[Reject]) -> bool:
    """Whether a person sees hashed names in these rows."""
    return any(_HASH.fullmatch(each.source_ref) for each in rows)


def reject_table(rows: Sequence[Reject]) -> list[str]:
    """Lines of a table of these rows, hashed names cut to 12 digits."""
    cells = tuple(
        (
            each.reason,
            each.item,
            _HASH.sub(lambda found: found[0][:_HASH_SHOWN], each.source_ref),
            each.message,
        )
        for each in rows
    )
    return Table(header=("reason", "item", "where", "what"), rows=cells).text()
