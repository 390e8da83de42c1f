"""Progress of work that runs in Ray workers: they post to one small actor, the driver draws bars.

Workers post at most twice a second and never wait for the answer, so a slow driver slows nobody.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_POST_INTERVAL_S = 0.5


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

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - a Ray actor handle
        self._actor = actor

    @classmethod
    def start(cls) -> "StepBoard":
        """Start a board in the running Ray session; it needs no CPU."""
        import ray

        return cls(ray.remote(num_cpus=0)(_Board).remote())

    def poster(self, part: str) -> Callable[[int, int, float], None]:
        """Return a callback (step, number of steps, loss) for the worker that runs `part`."""
        last = 0.0

        def post(step: int, num_steps: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _POST_INTERVAL_S or step == num_steps:
                last = now
                self._actor.post.remote(part, step, num_steps, f"loss {loss:.3f}")

        return post

    def wait(self, work: Mapping[str, Any]) -> dict[str, Any]:
        """Show a bar for each part until all of them have finished.

        Args:
            work: object reference of each part's result, by part.

        Returns:
            The results by part. A failed part raises at once, its error unwrapped by Ray.
        """
        import ray

        console = Console(stderr=True, highlight=False)
        results: dict[str, Any] = {}
        pending = {reference: part for part, reference in work.items()}
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        ) as bars:
            tasks = {part: bars.add_task(part, total=None, note="") for part in work}
            start = time.monotonic()
            while pending:
                ready, _ = ray.wait(list(pending), timeout=_POST_INTERVAL_S)
                for part, (done, total, note) in ray.get(self._actor.read.remote()).items():
                    bars.update(tasks[part], completed=done, total=total, note=note)
                for reference in ready:
                    part = pending.pop(reference)
                    results[part] = ray.get(reference)
                    if not console.is_terminal:
                        elapsed = time.monotonic() - start
                        console.print(f"{part}: done after {elapsed:.1f} s", markup=False)
        return results
