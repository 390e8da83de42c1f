"""The exit status of a job in its own log: Ray may lose it.

Ray 2.60 keeps a job's status with a message that names the exit code, and a number. Whoever asks a
node for a log for the first time sets a second watcher of all running jobs up there. It looks after
a second, and takes a job that has failed by then for one that never started: it writes another
message over the first, without a code. A command that fails as a job therefore says its status in
its last line, and who follows the log reads it there.
"""

import os
import re
from collections.abc import Callable

IS_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray puts into the environment of a job's command, under this very name."""

_REPLACED = "failed to get job supervisor"
"""The message of the second watcher."""
_LINE = re.compile(r"^exit status (\d{1,3})$", re.MULTILINE)


def last_line(code: object) -> str:
    """What a command that ends with `code` says last; nothing where all is well, or outside a job.

    Args:
        code: as `SystemExit` has it: a number, or a text or something else for 1.
    """
    if IS_JOB not in os.environ or not code:
        return ""
    return f"exit status {code if isinstance(code, int) else 1}"


class LogReader:
    """Hands a log on, in pieces of any size, and keeps the exit status that it names last."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._line = ""
        """Of a line without an end yet."""
        self.status: int | None = None

    def __call__(self, piece: str) -> None:
        """Take the next piece."""
        self._write(piece)
        *ended, line = f"{self._line}{piece}".rsplit("\n", 1)
        self._line = line[:_LONGEST]
        for found in _LINE.finditer("".join(ended)):
            self.status = int(found[1])

    def begin(self) -> None:
        """Forget the status: what follows is the log of another attempt."""
        self._line, self.status = "", None

    def ending(self, known: int | None, message: str) -> tuple[int, str]:
        """Exit status of a job that failed, and why it did.

        Args:
            known: the exit code that Ray kept; a signal's is negative.
            message: Ray's. Where it is the one that replaced another, the log's status counts.
        """
        told = " ".join(message.split()) or "no reason given"
        if known is None and self.status and _REPLACED in told:
            return self.status, f"its command ended with exit status {self.status} ({told})"
        code = known or 0
        return (code if 0 < code < 256 else 1), told


_LONGEST = 64
"""Kept of a line without an end: more than one of ours has."""
