"""Digests of admitted API keys in a folder that may change while the service runs.

On Kubernetes the folder is a mounted Secret, one file for each key or group of keys, whose name
says who has it; the kubelet exchanges the files within about a minute of a change. The files are
read again at most every `REREAD_S` seconds, so a key is added or withdrawn without a restart.

It fails closed: only well-formed lines count, and a folder that is gone or empty admits nobody. A
line that is no digest is named in the log by file and number, never shown.
"""

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

REREAD_S = 5.0
"""How old what is known may be; 20 files on a memory file system are read in 0.5 ms."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_digests(text: str) -> tuple[list[str], list[int]]:
    """Digests of keys, one a line, without empty lines and comments after `#`.

    Returns:
        The digests, and the numbers of the lines that are none.
    """
    digests: list[str] = []
    wrong: list[int] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if _DIGEST.fullmatch(line):
            digests.append(line)
        elif line and not line.startswith("#"):
            wrong.append(number)
    return digests, wrong


class KeyFolder:
    """The digests as an iterable, as current as `REREAD_S` allows."""

    def __init__(self, folder: Path, *, reread_s: float = REREAD_S) -> None:
        self._folder = folder
        self._reread_s = reread_s
        self._read_at = float("-inf")
        self._digests: tuple[str, ...] = ()
        self._problems: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """The digests that are admitted now."""
        now = time.monotonic()
        if now - self._read_at >= self._reread_s:
            self._read()
            self._read_at = now
        return iter(self._digests)

    def _read(self) -> None:
        digests: list[str] = []
        problems: list[str] = []
        try:
            # a Secret's own bookkeeping begins with two dots
            files = sorted(path for path in self._folder.iterdir() if path.name[0] != ".")
            for path in files:
                found, wrong = read_digests(path.read_text(encoding="ascii", errors="replace"))
                digests += found
                problems += [f"{path.name}, line {line}, is no sha256 in hex" for line in wrong]
        except OSError as error:
            digests = []
            problems.append(f"cannot be read ({error.strerror})")
        if not digests and not problems:
            problems.append("holds no digest")
        if tuple(problems) != self._problems:
            for problem in problems:
                logger.error("API keys in %s: %s; that line admits nobody", self._folder, problem)
        if set(digests) != set(self._digests):
            logger.warning("API keys in %s: %d are admitted now", self._folder, len(digests))
        self._digests, self._problems = tuple(digests), tuple(problems)
