"""Progress of work that runs in Ray workers: they post to one small actor, the driver draws bars.

Workers post at most twice a second and never wait for the answer, so a slow driver slows nobody.
Where stderr is no terminal, each part writes a line every 30 s and one when it ends. A worker can
also say something: its line is written once, on a terminal above the bars.
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

from sonoray.cluster.progress import rough_time

_INTERVAL_S = 0.5
_LINE_EVERY_S = 30.0
"""Between two lines of a part where no terminal shows its bar."""

Posts = Mapping[str, tuple[int, int, str]]
"""By part: steps done, steps in all, a note."""


class _Board:
    """State of the running parts; one Ray actor."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, int, str]] = {}
        self._said: list[str] = []

    def post(self, part: str, done: int, total: int, note: str) -> None:
        self._parts[part] = (done, total, note)

    def read(self) -> dict[str, tuple[int, int, str]]:
        return self._parts

    def say(self, line: str) -> None:
        self._said.append(line)

    def said(self, start: int) -> list[str]:
        return self._said[start:]


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

    def say(self, line: str) -> None:
        """Let the driver write a line."""
        self._actor.say.remote(f"{self._prefix}{line}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Draw a bar for every part that posts and write what is said, while the block runs."""
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

    def new_lines(self, start: int) -> list[str]:
        """Return what was said, without the first `start` lines."""
        import ray

        lines: list[str] = ray.get(self._actor.said.remote(start))
        return lines

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
            stopped, num_said = False, 0
            while not stopped:
                stopped = stop.wait(_INTERVAL_S)
                num_said += self._write_said(console, num_said)
                for part, (done, total, note) in self.read().items():
                    if part not in tasks:
                        tasks[part] = bars.add_task(part, total=total, note=note)
                    bars.update(tasks[part], completed=done, note=note)

    def _write_lines(self, console: Console, stop: threading.Event) -> None:
        start = time.monotonic()
        paces: dict[str, _Pace] = {}
        stopped, num_said = False, 0
        while not stopped:
            stopped = stop.wait(_INTERVAL_S)
            num_said += self._write_said(console, num_said)
            now = time.monotonic()
            for part, (done, total, note) in self.read().items():
                line = paces.setdefault(part, _Pace(now, done)).line(now, done, total)
                if done == total and not paces[part].ended:
                    paces[part].ended = True
                    line = f"{done} steps after {now - start:.1f} s"
                if line and total:
                    console.print(f"{part}: {line}, {note}", markup=False, soft_wrap=True)

    def _write_said(self, console: Console, start: int) -> int:
        """Write what was said since, and return how many lines that are."""
        lines = self.new_lines(start)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
        return len(lines)


class _Pace:
    """When a part's next line is due, and how fast it went since the last one."""

    def __init__(self, now: float, done: int) -> None:
        self.ended = False
        self._at, self._done = now, done

    def line(self, now: float, done: int, total: int) -> str:
        """The line of a part that has come `done` of `total` steps; empty before it is due."""
        if done < self._done:  # it began again, from its last checkpoint
            self._at, self._done, self.ended = now, done, False
        elapsed = now - self._at
        if self.ended or elapsed < _LINE_EVERY_S:
            return ""
        rate = (done - self._done) / elapsed
        self._at, self._done = now, done
        if not rate:
            return f"step {done} of {total}, none in {elapsed:.0f} s"
        left = rough_time((total - done) / rate)
        return f"step {done} of {total}, {rate:.3g} steps/s, about {left} left"
