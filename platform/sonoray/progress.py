"""Progress bars for the long loops of a job: a bar on a terminal, one line everywhere else.

Everything goes to stderr, so that a command's stdout stays its result. Logs of a cluster job or a
CI run get one summary line per finished loop instead of a thousand repainted bars.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable` and show how far it is.

    Args:
        iterable: what to go through.
        description: what is being done, as in `decode images`.
        total: number of items where `iterable` has no length; None shows a count without an end.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from _with_bar(iterable, description, total, console)
        return
    start, count = time.monotonic(), 0
    for item in iterable:
        yield item
        count += 1
    elapsed = time.monotonic() - start
    console.print(f"{description}: {count} in {elapsed:.1f} s", soft_wrap=True, markup=False)


def _with_bar(
    iterable: Iterable[T], description: str, total: int | None, console: Console
) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield from bars.track(iterable, total=total, description=description)
