"""Temporary folders that do not outlive their process for long, even one that was killed.

Scratch may hold pixels, so it must not stay. Each folder contains a lock file that its process
holds; the kernel drops the lock with the process, whatever ends it. Whoever makes the next folder
removes those that nobody holds any more. On a disk that machines share, locks must be shared too.
The lock is `flock` itself: filelock makes a lock file that is missing, and so would bring back a
folder that another process is removing.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "sonoray-"
_LOCK = ".sonoray-scratch"
"""Name of the lock file. A folder without one is not ours, whatever it is called."""
_SETTLED_S = 60.0
"""Age below which a folder is left alone: its process may not hold the lock yet."""


@contextlib.contextmanager
def scratch_folder(root: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder of mode 0700 below `root`, and remove it at the end.

    Args:
        root: where to make it; by default the system's temporary folder.

    Raises:
        OSError: the folder cannot be made.
    """
    root = Path(tempfile.gettempdir()) if root is None else root
    remove_abandoned(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        with (folder / _LOCK).open("x") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path) -> list[Path]:
    """Remove this user's scratch folders below `root` whose process is gone; return them."""
    removed = []
    for path in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # already going, held, or somebody else's
            status = path.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _SETTLED_S:
                continue
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent)
            removed.append(path.parent)
    return removed
