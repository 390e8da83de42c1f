#!/usr/bin/env bash
# MLflow 3.17: a process that has written to a run writes to the run's copy in another store at the
# first one's place, because artifact repositories are cached by run id alone.
#
# Version: mlflow 3.17.2, two SQLite stores in one process.
# What one would expect: a client of a copied store (the database and the artifacts copied, their
# URIs in it set to the new place, as after a move or a restored backup) logs artifacts into the copy.
# What happens: metrics go to the copy, and artifacts to the original, without a word: the client
# finds the repository of the run id in a cache of the process that does not ask which store it is of.
# Seen: the file lies below the original; in a new process the same call writes to the copy.
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "mlflow==3.17.2"
cat >"$scratch/copies.py" <<'PYTHON'
import shutil
import sqlite3
import sys
from pathlib import Path

from mlflow import MlflowClient

root, in_one_process = Path(sys.argv[1]), sys.argv[2] == "one"
first, second = root / "first", root / "second"


def client(folder):
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


if not second.exists():
    first.mkdir(parents=True)
    experiment = client(first).create_experiment("moved", artifact_location=str(first / "artifacts"))
    run = client(first).create_run(experiment).info.run_id
    client(first).log_text(run, "before the copy", "before.txt")
    shutil.copytree(first, second)
    with sqlite3.connect(second / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(first), str(second))
            )
    (root / "run").write_text(run)
run = (root / "run").read_text()
name = f"{sys.argv[2]}.txt"
assert client(second).get_run(run).info.artifact_uri.startswith(str(second))
client(second).log_text(run, "after the copy", name)
found = [folder.name for folder in (first, second) if list(folder.rglob(name))]
print(f"{sys.argv[2]} process: the copy's artifact lies below", *found)
wanted = ["first"] if in_one_process else ["second"]
assert found == wanted, f"expected {wanted}, found {found}"
PYTHON
export MLFLOW_DISABLE_TELEMETRY=true
"$scratch/venv/bin/python" "$scratch/copies.py" "$scratch/stores" one 2>/dev/null
"$scratch/venv/bin/python" "$scratch/copies.py" "$scratch/stores" another 2>/dev/null
