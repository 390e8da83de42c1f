"""What MLflow shall get of a run, on disk until it has it: a training never waits for a server.

Everything that concerns a run is an entry of one file: its beginning, settings, values, failures,
its end. `Outbox.add` writes an entry and returns; `Outbox.deliver` sends what is left, in order,
and notes after each call how far it came. So a server that is down, slow or restarted loses
nothing, and neither does a process that dies.

Nothing is doubled either. A call that was made and not noted is made again, which changes nothing
in MLflow: a point of the same name, step and time is one row, tags, parameters and files are set
to what they are. A run is made with a tag that holds an identity of our own, and is looked up by it
before it is made.

```
<runs>/<name>/outbox/entries.jsonl   one entry a line
                    /state.json      how far it was sent, the run's identity
                    /*.lock          held while entries are added, and while they are sent
```

`delivery` makes the calls of an entry; this module only keeps them.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from sonoray.files.json_files import write_json

OUTBOX = "outbox"
"""Folder of a training's outbox, beside its checkpoints."""

Entry = Mapping[str, Any]
"""A JSON object with a `kind`."""

Point = tuple[str, int, float]
"""A value of a curve: its metric, step and value."""

_ENTRIES, _STATE = "entries.jsonl", "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxState:
    """How far an outbox was sent."""

    sent_bytes: int = 0
    """Of the file of entries."""
    identity: str = ""
    """Of the run, by which it is found where its making was not noted."""


class Outbox:
    """The entries of one run; several processes may add, one at a time sends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _ENTRIES

    @property
    def exists(self) -> bool:
        """Whether anything was ever added."""
        return self._path.is_file()

    def add(self, *entries: Entry) -> None:
        """Append entries; on disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        with FileLock(self.folder / "add.lock"), self._path.open("a+b") as file:
            _end_torn_line(file)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def state(self) -> OutboxState:
        """How far it was sent."""
        try:
            values = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return OutboxState()
        return OutboxState(**values)

    def note(self, state: OutboxState) -> None:
        """Write down how far it was sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _STATE, asdict(state))

    def identity(self) -> str:
        """The identity of the run, made where it has none."""
        with FileLock(self.folder / "add.lock"):
            state = self.state()
            if not state.identity:
                state = replace(state, identity=uuid.uuid4().hex)
                self.note(state)
        return state.identity

    def size(self) -> int:
        """Bytes of all entries."""
        return self._path.stat().st_size if self.exists else 0

    def retract(self, size: int) -> None:
        """Take back what was added behind `size`: it can never be sent."""
        with FileLock(self.folder / "add.lock"), self._path.open("r+b") as file:
            file.truncate(size)

    def entries(self, start: int = 0) -> Iterator[tuple[Entry, int]]:
        """Yield the whole entries from a byte on, each with the byte behind it.

        A line that a killed process cut is no entry: nobody was told that it was added.
        """
        if self.size() <= start:
            return
        with self._path.open("rb") as file:
            file.seek(start)
            end = start
            for line in file:
                end += len(line)
                if not line.endswith(b"\n"):
                    return
                try:
                    yield json.loads(line), end
                except json.JSONDecodeError:
                    continue

    def num_waiting(self) -> int:
        """Entries that were not sent yet."""
        return sum(1 for _ in self.entries(self.state().sent_bytes))

    def sending(self) -> FileLock:
        """The lock to hold while entries are sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "send.lock")

    def clear(self) -> None:
        """Forget the entries of a run that ended, where all were sent; keep which run it is."""
        with self.sending(), FileLock(self.folder / "add.lock"):
            state = self.state()
            if 0 < self.size() <= state.sent_bytes:
                self.note(replace(state, sent_bytes=0))  # first: what is sent again harms nothing
                self._path.unlink()


def told_points(entries: Iterable[Entry]) -> set[Point]:
    """The values that were added since the run began, or since it was finished and begun anew."""
    told: set[Point] = set()
    for entry in entries:
        if entry["kind"] == "metrics":
            told |= {(name, step, value) for name, value, _, step in entry["points"]}
        elif entry["kind"] == "end" and entry["status"] == "FINISHED":
            told.clear()
    return told


def num_failures(entries: Iterable[Entry]) -> int:
    """How many failed attempts the entries tell of."""
    return sum(entry["kind"] == "failure" for entry in entries)


def _end_torn_line(file: Any) -> None:  # noqa: ANN401 - a binary file
    """Begin a new line behind one that a killed process cut, which then is no entry."""
    file.seek(0, os.SEEK_END)
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
