"""Progress bars for the long loops of a job: a bar on a terminal, one line everywhere else.

Everything goes to stderr, so that a command's stdout stays its result. Logs of a cluster job or a
CI run get one summary line per finished loop instead of a thousand repainted bars. A long loop also
says there how much time is left: once after a minute, then whenever its time has doubled.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

_FIRST_NOTE_S = 60.0
"""Time from the first item on over which a rate is measured before it predicts anything."""


class RateColumn(ProgressColumn):
    """Items per second of late."""

    def render(self, task: Task) -> Text:
        """Show the rate; nothing before there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


def progress(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yield from `iterable` and show how far it is, how fast, and how long it will take.

    Args:
        iterable: what to go through.
        description: what is being done, as in `decode images`.
        total: what the sizes add up to where `iterable` has no length; None shows a count without
            an end.
        size: how much of `total` an item is.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from _with_bar(iterable, description, total, size, console)
        return
    start, count = time.monotonic(), 0
    first_s, first_count, note_s = 0.0, 0, _FIRST_NOTE_S
    for item in iterable:
        yield item
        count += size(item)
        elapsed = time.monotonic() - start
        if not first_count:  # what came before it is start-up
            first_s, first_count = elapsed, count
        elif total and first_count < count < total and elapsed - first_s >= note_s:
            note_s = 2 * (elapsed - first_s)
            left_s = (total - count) * (elapsed - first_s) / (count - first_count)
            note = f"{count} of {total} in {elapsed:.0f} s, about {rough_time(left_s)} left"
            console.print(f"{description}: {note}", soft_wrap=True, markup=False)
    elapsed = time.monotonic() - start
    console.print(f"{description}: {count} in {elapsed:.1f} s", soft_wrap=True, markup=False)


def rough_time(seconds: float) -> str:
    """A time in words, to two digits or so, as in `5 min`."""
    for unit, unit_s in (("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _with_bar(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    size: Callable[[T], int],
    console: Console,
) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(description, total=total)
        for item in iterable:
            yield item
            bars.update(task, advance=size(item))
