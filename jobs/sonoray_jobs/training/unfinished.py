"""Trainings that were begun and not finished: which of them a configuration may go on with.

The same command finds its training by name, whatever became of the code: the name follows from the
settings and the inputs (`outputs.find.training_stage`). A training of another name,
whose checkpoints stay under `runs/`, can be gone on with too: `train.resume = "NAME"`, for one of
the same configuration by another version of the training, or of one that differs in settings which
`train.allow_changed` names. The outcome then bears a name of its own: part of it was learned
otherwise.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonoray.config.canonical import changed_settings, content_hash
from sonoray.errors import ConfigError
from sonoray.files.json_files import write_json
from sonoray.stages import Stage, StageOutput
from sonoray.tracking.outbox import OUTBOX, Outbox
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""`configuration`, the settings that decide the outcome, and `inputs`, a hash of what is read."""

LOCK = ".lock"
"""File of a working folder that is held while the training runs."""
_RECORD = "training.json"
_NO_SETTING = {"version", "resumed"}
"""Of a stage's config."""


def record_of(stage: Stage, inputs: Mapping[str, StageOutput]) -> Record:
    """What a training is begun with; two that are equal here are the same training.

    Args:
        stage: the training.
        inputs: its dataset and parts by name; they count by the files that they hold.
    """
    config = {name: value for name, value in stage.config.items() if name not in _NO_SETTING}
    contents = {name: output.manifest["files"] for name, output in inputs.items()}
    return {"configuration": config, "inputs": content_hash(contents)}


def write_record(folder: Path, record: Record, code: Mapping[str, str]) -> None:
    """Leave the record in a training's working folder, for whoever goes on with it.

    Args:
        folder: the working folder.
        record: of the training.
        code: digest of each module that it is learned with.
    """
    write_json(folder / _RECORD, {**record, "code": dict(code)})


@contextmanager
def kept_record(
    folder: Path, record: Record, code: Mapping[str, str], saved: Callable[[], Sequence[str]]
) -> Iterator[None]:
    """Leave the record for the block, and the one before it where the block saves nothing.

    Settings with which a training was never gone on with, because they do not fit its checkpoint,
    must not stand for those that it was begun with.

    Args:
        folder: the working folder.
        record: of the training.
        code: digest of each module that it is learned with.
        saved: names of the training's checkpoints.
    """
    file = folder / _RECORD
    before, names = (_read(file) if file.is_file() else None), list(saved())
    write_record(folder, record, code)
    try:
        yield
    except BaseException:
        if before is not None and list(saved()) == names:
            write_json(file, before)
        raise


@contextmanager
def told_where_it_stopped(store: CheckpointStore) -> Iterator[None]:
    """Say, where somebody stops the block, that the same command goes on with the training."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Ray Train's handler of Ctrl-C leaves by the latter
        names = store.names()
        at = f"at its newest checkpoint, {names[-1]}" if names else "from its start"
        logger.warning("the training is stopped; the same command goes on with it %s", at)
        raise KeyboardInterrupt from None


def changed_code(folder: Path, code: Mapping[str, str]) -> list[str]:
    """Names of the modules that differ from those which a training in a folder was begun with."""
    file = folder / _RECORD
    return changed_modules(_read(file)["code"], code) if file.is_file() else []


def changed_modules(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of the modules whose digests differ; none where nothing is known of before."""
    names = sorted({*before, *now}) if before else []
    return [name for name in names if before.get(name) != now.get(name)]


def find_unfinished(workspace: Workspace, record: Record) -> list[str]:
    """Names of the unfinished trainings of this record that have a checkpoint, the newest last."""
    found = [
        file.parent
        for file in workspace.runs.glob(f"*/{_RECORD}")
        if has_checkpoint(file.parent) and _is_of(_read(file), record)
    ]
    return [folder.name for folder in sorted(found, key=lambda each: each.stat().st_mtime_ns)]


def has_checkpoint(folder: Path) -> bool:
    """Whether a working folder holds one to go on from."""
    return bool(CheckpointStore(str(folder)).names())


def check_resumable(
    workspace: Workspace, name: str, record: Record, allowed: Sequence[str] = ()
) -> None:
    """Make sure that a training may be gone on with under another name.

    Args:
        workspace: where it lies.
        name: of the training.
        record: what goes on with it is begun with.
        allowed: settings in which they may differ.

    Raises:
        ConfigError: there is no such unfinished training, or it was begun with other settings.
    """
    folder = workspace.runs / name
    fitting = ", ".join(find_unfinished(workspace, record)) or "none"
    file = folder / _RECORD
    if not file.is_file() or not has_checkpoint(folder):
        raise ConfigError(
            f"train.resume {name!r} {_what_it_is(workspace, name)} (unfinished ones of this "
            f"configuration: {fitting}); name one, or leave train.resume out to start anew"
        )
    known = _read(file)
    if known["inputs"] != record["inputs"]:
        raise ConfigError(
            f"train.resume {name!r} was begun with other data or other parts (of these: "
            f"{fitting}); give its --dataset and --set, or leave train.resume out to start anew"
        )
    changed = {
        key: values
        for key, values in changed_settings(known["configuration"], record["configuration"]).items()
        if not any(key == each or key.startswith(f"{each}.") for each in allowed)
    }
    if changed:
        told = ", ".join(
            f"{key} {before!r}, here {now!r}" for key, (before, now) in changed.items()
        )
        raise ConfigError(
            f"train.resume {name!r} was begun with other settings: {told}; give the same, or go on "
            f"with: {' '.join(f'--allow-changed {key}' for key in changed)}"
        )


def _what_it_is(workspace: Workspace, name: str) -> str:
    """Why nothing can be gone on with under a name."""
    if (workspace.stages / f"train-{name}").is_dir():
        return f"is finished: sonoray evaluate --run {name} judges it"
    begun = {file.parent.name for file in workspace.runs.glob(f"{name}*/{_RECORD}")}
    longer = sorted(each for each in begun if has_checkpoint(workspace.runs / each))
    if name not in begun and longer:
        return f"is the beginning of {', '.join(longer)}, and whole names are wanted"
    return "is no unfinished training with a checkpoint"


def clear_working_folder(folder: Path, *, keep_run: bool = True) -> None:
    """Remove what was kept of a training that is finished; what waits for MLflow stays.

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


def _is_of(known: Record, record: Record) -> bool:
    return all(known.get(part) == record[part] for part in record)


def _read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
