"""Tell an expected failure from a bug, through the wrappers that Ray puts around both.

A job's work runs in Ray tasks, actors and Train workers. Some wrappers keep the original exception
(`RayTaskError`, `TrainingFailedError`), others only the text of its traceback (an actor that dies
in its constructor, a Ray Data function, a Serve replica), so the text is what is read from all.

The model raises plain `ValueError`: it is the user's where `llava_ultra` itself raised it, and a
bug where some library below it did.
"""

import importlib
import re
from dataclasses import dataclass
from pathlib import PurePath

from sonoray.errors import JobFailedError, SonoError

_MODEL_PACKAGE = "llava_ultra"
_RAISED = re.compile(
    r"^[ \t]*(?:(?P<module>sonoray\w*(?:\.\w+)*)\.(?P<name>\w+)|ValueError): (?P<message>.+)$",
    re.MULTILINE,
)
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line \d+', re.MULTILINE)
_LOW_MEMORY = "running low on memory"
"""In Ray's words of a worker that its memory monitor has ended (2.60)."""
_HANDLING = "During handling of the above exception, another exception occurred:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What to tell the user."""

    message: str
    """One line."""
    exit_code: int


def find_failure(error: BaseException) -> Failure | None:
    """Return the expected failure that `error` is or that Ray wrapped in it; None for a bug."""
    raised_in = _last_module(error)
    if "ray" in (_root(type(error).__module__), _root(raised_in)):
        return _find_in_text(str(error)) or _find_in_workers(error) or _out_of_memory(str(error))
    if isinstance(error, SonoError):
        return Failure(message=_one_line(str(error)), exit_code=error.exit_code)
    if isinstance(error, ValueError) and _root(raised_in) == _MODEL_PACKAGE:
        return Failure(message=_one_line(str(error)), exit_code=SonoError.exit_code)
    return None


def _find_in_text(text: str) -> Failure | None:
    """Find the first exception of ours that a printed traceback names as the cause."""
    text = text.rpartition(_HANDLING)[2]  # what failed while ours was being handled is a bug
    for match in _RAISED.finditer(text):
        if match["module"] is None:
            files = _FRAME.findall(text, 0, match.start())
            if files and _MODEL_PACKAGE in PurePath(files[-1]).parts:
                return Failure(message=_one_line(match["message"]), exit_code=SonoError.exit_code)
            continue
        try:
            kind = getattr(importlib.import_module(match["module"]), match["name"], None)
        except ImportError:  # a line that only looks like an exception's
            continue
        if isinstance(kind, type) and issubclass(kind, SonoError):
            return Failure(message=_one_line(match["message"]), exit_code=kind.exit_code)
    return None


def _find_in_workers(error: BaseException) -> Failure | None:
    """Ray Train shortens long tracebacks and keeps the workers' exceptions beside them."""
    for inner in dict(getattr(error, "worker_failures", None) or {}).values():
        if isinstance(inner, SonoError):
            return Failure(message=_one_line(str(inner)), exit_code=inner.exit_code)
    return None


def _out_of_memory(text: str) -> Failure | None:
    """Ray ends workers of a node that runs out of memory, and says so at length."""
    if _LOW_MEMORY not in text:
        return None
    return Failure(
        message="workers were ended since their node ran low on memory; do less at once (in a "
        "training train.micro_studies or fewer workers, else the step's batch_size), or give the "
        "node more: sonoray describe says what is needed",
        exit_code=JobFailedError.exit_code,
    )


def _last_module(error: BaseException) -> str:
    """Dotted name of the module whose frame raised `error`, empty where it was never raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(frame.tb_frame.f_globals.get("__name__", "")) if frame else ""


def _root(module: str) -> str:
    return module.partition(".")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())
