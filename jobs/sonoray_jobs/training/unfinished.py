"""Trainings that were begun and not finished: which of them today's code may go on with.

A training's name holds its code, so that after a change of the code the same command is another
training, which starts at zero. What an earlier one has reached is not lost: its checkpoints stay
under `runs/`, beside a record of its configuration and of what its inputs hold. `train` names them,
and `train.resume = "NAME"` goes on with one. The outcome then bears a name of its own: part of it
was learned by other code.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError
from sonoray.files.json_files import write_json
from sonoray.stages import Stage, StageOutput
from sonoray.tracking.outbox import OUTBOX, Outbox
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace

LOCK = ".lock"
"""File of a working folder that is held while the training runs."""
_RECORD = "training.json"
_CHECKPOINTS = "checkpoint_*"
"""Folders of Ray Train."""


def record_of(stage: Stage, inputs: Mapping[str, StageOutput]) -> dict[str, str]:
    """What two trainings have in common that differ in code alone.

    Args:
        stage: the training.
        inputs: its dataset and parts by name; they count by the files that they hold.
    """
    config = {name: value for name, value in stage.config.items() if name != "resumed"}
    contents = {name: output.manifest["files"] for name, output in inputs.items()}
    return {"configuration": content_hash(config), "inputs": content_hash(contents)}


def write_record(folder: Path, record: Mapping[str, str]) -> None:
    """Leave the record in a training's working folder, for a later training by other code."""
    write_json(folder / _RECORD, dict(record))


def find_unfinished(workspace: Workspace, record: Mapping[str, str]) -> list[str]:
    """Names of the unfinished trainings of this record that have a checkpoint, the newest last."""
    found = [
        file.parent
        for file in workspace.runs.glob(f"*/{_RECORD}")
        if has_checkpoint(file.parent) and _read(file) == record
    ]
    return [folder.name for folder in sorted(found, key=lambda each: each.stat().st_mtime_ns)]


def has_checkpoint(folder: Path) -> bool:
    """Whether a working folder holds one to go on from."""
    return any(folder.glob(_CHECKPOINTS))


def check_resumable(workspace: Workspace, name: str, record: Mapping[str, str]) -> None:
    """Make sure that a training may be gone on with under another name.

    Raises:
        ConfigError: there is no such unfinished training, or it has another configuration.
    """
    folder = workspace.runs / name
    fitting = ", ".join(find_unfinished(workspace, record)) or "none"
    file = folder / _RECORD
    if not file.is_file() or not has_checkpoint(folder):
        raise ConfigError(
            f"train.resume {name!r} is no unfinished training with a checkpoint (of this "
            f"configuration: {fitting}); name one, or leave train.resume out to start anew"
        )
    known = _read(file)
    if known != record:
        what = "configuration" if known["configuration"] != record["configuration"] else "data"
        raise ConfigError(
            f"train.resume {name!r} was begun with another {what} (of this one: {fitting}); give "
            "its --config, --dataset and --set, or leave train.resume out to start anew"
        )


def clear_working_folder(folder: Path, *, keep_run: bool = True) -> None:
    """Remove what Ray Train kept of a training that is finished; what waits for MLflow stays.

    Args:
        folder: the working folder.
        keep_run: whether the MLflow run's id stays. Where the training was finished under another
            name it goes: the code that began it would continue a run that is another training's.
    """
    kept = {LOCK}
    if keep_run or Outbox(folder / OUTBOX).num_waiting():
        kept |= {RUN_ID_FILE, OUTBOX}
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
