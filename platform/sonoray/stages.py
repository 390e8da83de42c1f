"""Content-addressed stage outputs: a rerun is a no-op, a changed input is not.

A stage's key is the hash of its configuration, the keys of its inputs and the code that makes it
(`sonoray.digests.code`). Its output is the folder `<name>-<first 12 hex digits>` under the
workspace, written into a scratch folder beside its final place and renamed once complete, so a
killed job leaves nothing half-written, and what it had written goes with the next run; it holds
`manifest.json` with the key, counts and file digests.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.cluster.scratch import remove_abandoned, scratch_folder
from sonoray.config.canonical import content_hash
from sonoray.digests.code import code_digest
from sonoray.errors import DataError
from sonoray.files.json_files import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a stage output depends on."""

    name: str
    """Kind of stage and its subject, as in `ingest-busbra`."""
    config: Mapping[str, Any]
    """The JSON values that shape the output."""
    inputs: Sequence[str] = ()
    """Keys or digests of everything read."""
    code: Sequence[str] = ()
    """Dotted names of the modules that make the output: they and all that they import count."""

    @property
    def key(self) -> str:
        """Sha256 (hex) over name, config, inputs and code."""
        return content_hash(
            {
                "name": self.name,
                "config": self.config,
                "inputs": list(self.inputs),
                "code": code_digest(*self.code),
            }
        )

    def path(self, root: Path) -> Path:
        """Folder of the output under `root`."""
        return root / f"{self.name}-{self.key[:12]}"

    def is_made(self, root: Path) -> bool:
        """Whether the output under `root` is finished."""
        return (self.path(root) / MANIFEST).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutput:
    """A finished stage: where it lies and what its manifest says."""

    path: Path
    manifest: Mapping[str, Any]
    reused: bool
    """True where the output stood already and nothing ran."""

    @property
    def key(self) -> str:
        """The full key of the stage, to hand on as an input of the next one."""
        return str(self.manifest["key"])


def run_stage(stage: Stage, root: Path, make: Callable[[Path], Mapping[str, Any]]) -> StageOutput:
    """Return the output of `stage`, making it first where it does not exist.

    Args:
        stage: what the output depends on.
        root: folder that holds all stage outputs.
        make: writes the output into the (empty) folder that it is given and returns the manifest's
            `summary`: counts, schema, metrics.
    """
    final = stage.path(root)
    remove_abandoned(root)  # also where nothing is made: killed jobs left pixels and reports
    if stage.is_made(root):
        return StageOutput(path=final, manifest=read_manifest(final), reused=True)
    root.mkdir(parents=True, exist_ok=True)
    with scratch_folder(root) as scratch:
        partial = scratch / final.name
        partial.mkdir()
        summary = make(partial)
        manifest = {
            "name": stage.name,
            "key": stage.key,
            "config": dict(stage.config),
            "inputs": list(stage.inputs),
            "summary": dict(summary),
            "files": file_digests(partial),
        }
        write_json(partial / MANIFEST, manifest)
        try:
            partial.rename(final)
        except OSError:  # another process finished the same stage first: its output is ours
            if not (final / MANIFEST).is_file():
                raise
    return StageOutput(path=final, manifest=read_manifest(final), reused=False)


def find_stage(stage: Stage, root: Path, *, fix: str) -> StageOutput:
    """Return the finished output of `stage`.

    Raises:
        DataError: it was never made; the message ends with `fix`, the command that makes it.
    """
    path = stage.path(root)
    if not stage.is_made(root):
        raise DataError(f"no {stage.name} output {str(path)!r} for this config; run: {fix}")
    return StageOutput(path=path, manifest=read_manifest(path), reused=True)


def find_tries(
    first: Stage, root: Path, may_pass: Callable[[Mapping[str, Any]], bool]
) -> tuple[Stage, Stage]:
    """Return the last of a stage's tries that was made, and the one to make to try again.

    An output may hold what the machine did to it, and its key cannot tell. The number of a try is
    therefore part of its key: what is made of the output is not reused for another one.

    Args:
        first: the first try, whether it was made or not.
        root: folder that holds all stage outputs.
        may_pass: whether an output of this summary may come out otherwise; if not, both are it.
    """
    last = first
    for number in itertools.count(2):
        if not last.is_made(root) or not may_pass(read_manifest(last.path(root))["summary"]):
            break
        following = dataclasses.replace(first, inputs=[*first.inputs, f"try {number}"])
        if not following.is_made(root):
            return last, following
        last = following
    return last, last


def keep_equal(before: Stage, output: StageOutput) -> StageOutput:
    """Return the output of the try before, and remove that of this one, where both are equal."""
    path = before.path(output.path.parent)
    if path == output.path or not before.is_made(output.path.parent):
        return output
    manifest = read_manifest(path)
    if manifest["files"] != output.manifest["files"]:
        return output
    shutil.rmtree(output.path)
    return StageOutput(path=path, manifest=manifest, reused=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a stage's manifest.

    Raises:
        DataError: it is missing or not JSON.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise DataError(
            f"stage output {str(folder)!r} has no readable {MANIFEST} ({type(error).__name__}); "
            "remove the folder and run the stage again"
        ) from None
    return manifest


def file_digests(folder: Path) -> dict[str, str]:
    """Map each file below `folder`, by relative path, to its sha256 (hex)."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digests[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return digests
