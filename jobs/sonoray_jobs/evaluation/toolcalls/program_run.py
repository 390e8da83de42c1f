"""A program of a user: one line in, what it prints out, within a time and a size.

What a program prints is read as it comes, so that one which prints without end is stopped at
`MOST_BYTES` and fills no memory. Its line lies in a file without a name: a pipe holds 64 KiB, and a
program that does not read would keep us writing past its time. It has a process group of its own,
and all of the group is ended with it: a child that it left behind would hold its output open and
outlive the question.
"""

import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Literal

MOST_BYTES = 64 * 1024
"""Of what a program prints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What became of a program."""

    ended: Literal["done", "timeout", "failed", "too-long"]
    """`failed`: it did not start, or its exit status was not zero."""
    printed: bytes = b""


def run_program(command: Sequence[str], line: str, timeout_s: float) -> Ran:
    """Give a program a line and read what it prints.

    Args:
        command: the program and its arguments.
        line: what it reads.
        timeout_s: until when it must have ended.
    """
    until = monotonic() + timeout_s
    try:
        with tempfile.TemporaryFile() as told:
            told.write(f"{line}\n".encode())
            told.seek(0)
            process = subprocess.Popen(  # noqa: S603 - the settings' own command
                command,
                stdin=told,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
    except (OSError, ValueError):
        return Ran(ended="failed")
    with process:
        try:
            return _read(process, until)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _read(process: "subprocess.Popen[bytes]", until: float) -> Ran:
    assert process.stdout is not None  # a pipe
    printed = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, until - monotonic())) and monotonic() < until:
            found = os.read(process.stdout.fileno(), MOST_BYTES)
            printed += found
            if len(printed) > MOST_BYTES:
                return Ran(ended="too-long")
            if not found:
                break
        else:
            return Ran(ended="timeout")
    try:
        status = process.wait(max(0.0, until - monotonic()))
    except subprocess.TimeoutExpired:
        return Ran(ended="timeout")
    return Ran(ended="failed") if status else Ran(ended="done", printed=bytes(printed))
