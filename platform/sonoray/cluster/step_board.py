"""Progress of work that runs in Ray workers: they post to one small actor, the driver draws bars.

Workers post at most twice a second and never wait for the answer, so a slow driver slows nobody.
Where stderr is no terminal, each part writes one line when it ends.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_INTERVAL_S = 0.5

Posts = Mapping[str, tuple[int, int, str]]
"""By part: steps done, steps in all, a note."""


class _Board:
    """State of the running parts; one Ray actor."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, int, str]] = {}

    def post(self, part: str, done: int, total: int, note: str) -> None:
        self._parts[part] = (done, total, note)

    def read(self) -> dict[str, tuple[int, int, str]]:
        return self._parts


class StepBoard:
    """Handle of a board: made by the driver, passed to workers."""

    def __init__(self, actor: Any, prefix: str = "") -> None:  # noqa: ANN401 - an actor handle
        self._actor = actor
        self._prefix = prefix

    @classmethod
    def start(cls) -> "StepBoard":
        """Start a board in the running Ray session; it needs no CPU."""
        import ray

        return cls(ray.remote(num_cpus=0)(_Board).remote())

    def within(self, name: str) -> "StepBoard":
        """Return the same board for one of several jobs: it puts `name` before its parts."""
        return StepBoard(self._actor, f"{self._prefix}{name}: ")

    def poster(self, part: str) -> Callable[[int, int, float], None]:
        """Return a callback (step, number of steps, loss) for the worker that runs `part`."""
        part = f"{self._prefix}{part}"
        last = 0.0

        def post(step: int, num_steps: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _INTERVAL_S or step == num_steps:
                last = now
                self._actor.post.remote(part, step, num_steps, f"loss {loss:.3f}")

        return post

    def announce(self, part: str) -> None:
        """Post a part whose steps are not counted."""
        self._actor.post.remote(f"{self._prefix}{part}", 0, 0, "")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Draw a bar for every part that posts, while the block runs."""
        console = Console(stderr=True, highlight=False)
        stop = threading.Event()
        draw = self._draw_bars if console.is_terminal else self._write_lines
        thread = threading.Thread(target=draw, args=(console, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def read(self) -> Posts:
        """Return what every part posted last."""
        import ray

        posts: Posts = ray.get(self._actor.read.remote())
        return posts

    def _draw_bars(self, console: Console, stop: threading.Event) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bars:
            tasks: dict[str, TaskID] = {}
            stopped = False
            while not stopped:
                stopped = stop.wait(_INTERVAL_S)
                for part, (done, total, note) in self.read().items():
                    if part not in tasks:
                        tasks[part] = bars.add_task(part, total=total, note=note)
                    bars.update(tasks[part], completed=done, note=note)

    def _write_lines(self, console: Console, stop: threading.Event) -> None:
        start = time.monotonic()
        ended: set[str] = set()
        stopped = False
        while not stopped:
            stopped = stop.wait(_INTERVAL_S)
            for part, (done, total, note) in self.read().items():
                if done == total and part not in ended:
                    ended.add(part)
                    elapsed = time.monotonic() - start
                    line = f"{part}: {done} steps after {elapsed:.1f} s, {note}"
                    console.print(line, markup=False, soft_wrap=True)
