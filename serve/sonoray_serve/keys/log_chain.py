"""The chain of an audit log: how a line holds the one before it, and whether all do."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError

START = "0" * 64
"""What the first line of a file has as the digest of the line before it."""


def chained(values: dict[str, Any], last: str) -> bytes:
    """A line of the log behind the line of digest `last`."""
    return json.dumps({**values, "before": last}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What verifying a log has found."""

    files: Sequence[tuple[str, int, str]]
    """Name, number of lines and last digest of each."""
    broken: Sequence[str]
    """Where a chain breaks, a line each."""

    @property
    def exit_code(self) -> int:
        """1 where a chain breaks."""
        return 1 if self.broken else 0

    def lines(self) -> list[str]:
        """What a person reads."""
        whole = [f"{name}: {count} lines, last digest {last}" for name, count, last in self.files]
        return [*whole, *self.broken, "the log was changed" if self.broken else "the log is whole"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        files = [{"name": name, "lines": count, "last": last} for name, count, last in self.files]
        return {"files": files, "broken": list(self.broken)}


def verify(folder: Path) -> Verified:
    """Follow the chain of every file of a log.

    Raises:
        DataError: there is no log.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(
            f"{str(folder)!r} holds no audit log (*.jsonl); name serve.audit_log's folder"
        )
    files, broken = [], []
    for path in paths:
        last, count = START, 0
        for line in path.read_bytes().splitlines(keepends=True):
            count += 1
            if not line.endswith(b"\n") or _before(line) != last:
                broken.append(f"{path.name}: the chain breaks at line {count}")
                break
            last = hashlib.sha256(line).hexdigest()
        files.append((path.name, count, last))
    return Verified(files=files, broken=broken)


def _before(line: bytes) -> str | None:
    try:
        value = json.loads(line)["before"]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
