"""Every file below a folder, with what hides some of them: nothing that lies there is left out.

`os.walk` and `Path.rglob` pass over a folder that cannot be listed, and `os.walk` over a linked
one. Here the first is found with a problem, as is a link that leads nowhere, so that each costs its
own reject; linked folders are entered, since archives grow onto other volumes that way.

A folder is entered once, whatever paths lead to it, so that no link leads in a circle and no file
counts twice. Real folders come before linked ones: their path is the name of what lies in them.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file, or a folder or link whose content cannot be seen."""

    path: Path
    ref: str
    """The path below the folder; bytes of a name that are not UTF-8 stand as `\\xd0`."""
    problem: str = ""
    """`reason: detail`, with `unreadable_folder` or `unreadable_file`; empty for a file."""


def list_files(folder: Path) -> Iterator[FoundFile]:
    """Yield what lies in a folder at any depth, in an order that does not change.

    Links are followed. Pipes, sockets and devices are no files.
    """
    folders, links = [folder], deque[Path]()
    entered = set[tuple[int, int]]()
    while folders or links:
        here = folders.pop() if folders else links.popleft()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield _lost(here, folder, "unreadable_folder: it cannot be listed", error)
            continue
        below: list[Path] = []
        for entry in entries:
            path = here / entry.name
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                yield _lost(path, folder, "unreadable_file: it cannot be found", error)
                continue
            if stat.S_ISDIR(mode) and entry.is_symlink():
                links.append(path)
            elif stat.S_ISDIR(mode):
                below.append(path)
            elif stat.S_ISREG(mode):
                yield FoundFile(path=path, ref=_ref(path, folder))
        folders += reversed(below)


def _lost(path: Path, folder: Path, what: str, error: OSError) -> FoundFile:
    problem = f"{what} ({error.strerror}); check its rights, or where a link leads"
    return FoundFile(path=path, ref=_ref(path, folder), problem=problem)


def _ref(path: Path, folder: Path) -> str:
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
