"""The artifacts of a workspace's own MLflow store, found where the workspace lies now.

MLflow writes absolute paths: each experiment, run and model version of the SQLite file names its
folder of artifacts. A workspace that was copied or mounted elsewhere would therefore read and write
the original's files. MLflow has no call that changes them, so the columns that hold them are
rewritten here, at the first opening in a new place.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate_artifacts(database: Path, artifact_root: Path) -> int:
    """Let all artifacts that were below another workspace's root be below `artifact_root`.

    Args:
        database: MLflow's SQLite file, with its tables made.
        artifact_root: folder whose folders are experiments, by name (`runs.held_run`).

    Returns:
        How many places were rewritten; 0 in a workspace that was not moved.
    """
    here = artifact_root.as_uri()
    changed = 0
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        roots = {_root_of(name, location or "") for name, location in rows}
        for before in roots - {here, ""}:
            for table, column in _COLUMNS:
                changed += connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
                    f"WHERE substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, len(before) + 1, f"{before}/"),
                ).rowcount
    return changed


def _root_of(experiment: str, location: str) -> str:
    """The artifact root of an experiment that a workspace made; empty of any other one."""
    root = location.removesuffix(f"/{quote(experiment)}")  # its name may hold a slash
    return root if root != location and root.endswith("/artifacts") else ""
