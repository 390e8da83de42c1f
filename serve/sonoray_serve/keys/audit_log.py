"""Who asked when, and how it ended: a file of lines that nobody can change unnoticed.

Each line holds the sha256 of the line before it, so that a line that was changed, taken out, put in
or moved breaks the chain from there on. What is cut off at the end leaves the chain whole:
verifying prints the number of lines and the last digest, which belong somewhere else if that
matters. There is a file for each ingress replica, and it is only ever appended to.

A line has the time, the key by the beginning of its digest, the path, the status and the seconds;
of an answer to a question, whether the model or its student gave it.
Nothing of a request or an answer is in it. A service that cannot write its log takes no work.
"""

import hashlib
import logging
import os
import time
import uuid
from pathlib import Path

from sonoray.errors import ServingError
from sonoray_serve.keys.log_chain import START, chained

logger = logging.getLogger(__name__)

_KEY_CHARS = 12
"""Of a key's digest: enough to tell keys apart, and nobody is admitted by it."""


class AuditLog:
    """One file; for one event loop."""

    def __init__(self, folder: Path) -> None:
        """Begin a file.

        Raises:
            ServingError: the folder cannot be written to.
        """
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = folder / f"{when}-{uuid.uuid4().hex[:8]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # 0600: who asked when is nobody else's affair
            number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ServingError(
                f"serve.audit_log = {str(folder)!r} cannot be written to ({error.strerror}); name "
                "a folder that every node may write to"
            ) from None
        self._file = os.fdopen(number, "wb", buffering=0)
        self._last = START
        self.is_broken = False
        """Whether the last line could not be written."""

    def add(
        self, *, key_digest: str, path: str, status: int, took_s: float, answered_by: str = ""
    ) -> None:
        """Write a line; where that fails, say so once and remember it."""
        line = chained(
            {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "key": key_digest[:_KEY_CHARS],
                "path": path,
                "status": status,
                "took_s": round(took_s, 3),
                **({"answered_by": answered_by} if answered_by else {}),
            },
            self._last,
        )
        try:
            self._file.write(line)
        except OSError as error:
            if not self.is_broken:
                logger.error(
                    "the audit log cannot be written (%s); no work is taken", error.strerror
                )
            self.is_broken = True
            return
        self.is_broken = False
        self._last = hashlib.sha256(line).hexdigest()
