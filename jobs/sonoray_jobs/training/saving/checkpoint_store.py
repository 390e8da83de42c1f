"""The checkpoints of one training while it goes: written in two phases, verified when read.

A checkpoint is a folder `checkpoint_<stage>_<step>` of the training's working folder, or the same
below a prefix of an object store. Its files come first and `position.json`, which holds the sha256
of each of them and of itself, comes last: without it a folder is no checkpoint, whatever killed its
writer. One whose files are not what `position.json` says is refused in a line and removed, and the
one before it is used.

Ray Train's own manager is not used. A checkpoint that was uploaded and that its controller had not
yet asked for is lost with the worker, incomplete folders stay for ever, an upload that fails ends
the training, and it gives back the newest checkpoint alone, whether it can be read or not (2.60).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.config.load import validate_config
from sonoray.errors import CheckpointError, SonoError
from sonoray_jobs.training.saving.position import POSITION, Position

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

PREFIX = "checkpoint_"


class CheckpointStore:
    """All checkpoints of one training; any process may open it, one at a time may write."""

    def __init__(self, root: str) -> None:
        """Name the place.

        Args:
            root: the training's working folder, or `s3://bucket/prefix/name`.
        """
        self.root = root.rstrip("/")

    def names(self) -> list[str]:
        """Names of the complete checkpoints, the newest last."""
        return [name for name in self._folders() if self._is_file(f"{name}/{POSITION}")]

    def write(self, position: Position, files: Mapping[str, bytes]) -> str:
        """Write a checkpoint and return its name.

        Raises:
            OSError: the place does not take it; what there is of it is removed.
        """
        name = f"{PREFIX}{position.stage:02}_{position.steps:08}"
        digests = {file: _sha256(content) for file, content in files.items()}
        sealed = position.model_copy(update={"files": digests}).sealed()
        try:
            self._remove(name)  # of the same step: it was refused, or is written again
            self._system.create_dir(self._path(name), recursive=True)
            for file, content in files.items():
                self._put(f"{name}/{file}", content)
            self._put(f"{name}/{POSITION}", sealed.model_dump_json().encode())
        except OSError:
            self._remove(name)
            raise
        return name

    def read_position(self, name: str) -> Position:
        """Read how far a checkpoint is, without a look at its other files.

        Raises:
            SonoError: its `position.json` is not what was written.
        """
        where = f"{self.root}/{name}/{POSITION}"
        try:
            told = json.loads(self._get(f"{name}/{POSITION}"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{where} cannot be read ({type(error).__name__})") from None
        position = validate_config(Position, told, where)
        if not position.is_sealed:
            raise CheckpointError(f"{where} was changed after it was written")
        return position

    def verify(self, name: str) -> Position:
        """Read a whole checkpoint against its digests.

        Raises:
            SonoError: the message says which file is missing, truncated or changed.
        """
        position = self.read_position(name)
        for file, digest in position.files.items():
            try:
                content = self._get(f"{name}/{file}")
            except OSError as error:
                raise CheckpointError(
                    f"{self.root}/{name}/{file} cannot be read ({type(error).__name__})"
                ) from None
            if _sha256(content) != digest:
                raise CheckpointError(
                    f"{self.root}/{name}/{file} is truncated or was changed after it was written"
                )
        return position

    def newest(self, say: Callable[[str], None]) -> str | None:
        """Name of the newest checkpoint that is whole; removes those that are not, and says so."""
        names = self.names()
        while names:
            name = names.pop()
            if self._is_whole(name, say, f"{names[-1]} is used" if names else "anew"):
                return name
        return None

    def best_whole(self, stage: int, say: Callable[[str], None]) -> str | None:
        """The best one of a stage that is whole; removes those that are not, and says so."""
        while name := self.best(stage):
            if self._is_whole(name, say, "the next best one is used"):
                return name
        return None

    def _is_whole(self, name: str, say: Callable[[str], None], instead: str) -> bool:
        try:
            self.verify(name)
        except SonoError as error:
            say(f"checkpoint {name} is refused and removed, {instead}: {error}")
            self._remove(name)
            return False
        return True

    def best(self, stage: int) -> str | None:
        """Name of the checkpoint of a stage with the lowest validation loss, the first of equals.

        None where none was validated.
        """
        found = []
        for name in self.names():
            with suppress(SonoError):  # whoever goes on from it refuses it, and says so
                position = self.read_position(name)
                if position.stage == stage and position.validation_loss is not None:
                    found.append((position.validation_loss, position.steps, name))
        return min(found)[2] if found else None

    def fetch(self, name: str, scratch: Path) -> Path:
        """A local folder with the checkpoint's files: its own, or a copy below `scratch`."""
        if self._is_local:
            return Path(self._path(name))
        from pyarrow.fs import LocalFileSystem, copy_files

        folder = scratch / name
        folder.mkdir(parents=True)
        copy_files(
            self._path(name),
            str(folder),
            source_filesystem=self._system,
            destination_filesystem=LocalFileSystem(),
        )
        return folder

    def prune(self, keep: int, *, protect: str | None = None) -> None:
        """Remove all but the newest `keep` checkpoints, and one that is `protect`ed."""
        for name in self.names()[:-keep]:
            if name != protect:
                self._remove(name)

    def sweep(self) -> list[str]:
        """Remove what killed writers left: folders without a `position.json`; returns them."""
        complete = set(self.names())
        orphans = [name for name in self._folders() if name not in complete]
        for name in orphans:
            self._remove(name)
        return orphans

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where nobody can tell."""
        if not self._is_local:
            return None
        folder = Path(self._path(""))
        return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free

    def _folders(self) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(""), allow_not_found=True)
        found: list[FileInfo] = self._system.get_file_info(selector)
        return sorted(
            info.base_name
            for info in found
            if info.type == FileType.Directory and info.base_name.startswith(PREFIX)
        )

    def _is_file(self, name: str) -> bool:
        return bool(self._system.get_file_info(self._path(name)).is_file)

    def _put(self, name: str, content: bytes) -> None:
        with self._system.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def _get(self, name: str) -> bytes:
        with self._system.open_input_stream(self._path(name)) as stream:
            content: bytes = stream.read()
        return content

    def _remove(self, name: str) -> None:
        # the mark first: half a removal must not look like a checkpoint
        for remove, what in (
            (self._system.delete_file, f"{name}/{POSITION}"),
            (self._system.delete_dir, name),
        ):
            try:
                remove(self._path(what))
            except FileNotFoundError:
                continue

    def _path(self, name: str) -> str:
        return f"{self._place[1]}/{name}".rstrip("/")

    @property
    def _system(self) -> Any:  # noqa: ANN401 - pyarrow has no stubs
        return self._place[0]

    @property
    def _is_local(self) -> bool:
        return str(self._system.type_name) == "local"

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """Pyarrow's file system, and the root in its manner."""
        from pyarrow.fs import FileSystem

        system, root = FileSystem.from_uri(self.root)
        return system, root.rstrip("/")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
