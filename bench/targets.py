"""Rows of `bench/results/targets.json`: what was wanted, what was measured, by which command."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TARGETS = Path(__file__).resolve().parent / "results" / "targets.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure that was asked for."""

    name: str
    wanted: float
    better: str
    """higher or lower."""
    measured: float
    unit: str


def write_rows(rows: Sequence[Row], command: str) -> None:
    """Put rows into the table, in place of those of the same names."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    names = {row.name for row in rows}
    known = json.loads(TARGETS.read_text(encoding="utf-8"))
    known = [row for row in known if row["name"] not in names]
    known += [
        {
            "name": row.name,
            "wanted": row.wanted,
            "better": row.better,
            "measured": round(row.measured, 4),
            "unit": row.unit,
            "commit": commit,
            "command": command,
        }
        for row in rows
    ]
    TARGETS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
