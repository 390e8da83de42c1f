"""The children of an ablation as Ray tasks, as many at once as the cluster has room for.

A task drives one child: it calls the road's own jobs, whose workers take the CPUs, and takes none
itself. A child trains with one worker and answers with one actor, so that children and not workers
run side by side. A child that fails is reported with its reason and the others go on.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sonoray.cluster.step_board import StepBoard
from sonoray.errors import ClusterError
from sonoray.workspace import Workspace
from sonoray_jobs.cluster.failures import find_failure
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.evaluation.ablation.children import Child
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.questions import asked_studies
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_CANCEL_S = 20.0
"""How long an interrupted ablation waits for its children to close their MLflow runs."""


def place(road: RoadConfig) -> RoadConfig:
    """The road with one training worker and one answering actor per child."""
    return with_values(road, {"train.num_workers": 1, "evaluate.actors": 1})


def num_at_once(road: RoadConfig, resources: Mapping[str, float], requested: int | None) -> int:
    """How many children of a placed road may run at once.

    Args:
        road: as `place` returns it.
        resources: `CPU` and `GPU` of the cluster.
        requested: the most that the user wants.

    Raises:
        ClusterError: not one of them fits.
    """
    training, answering = road.train, road.evaluate
    needs = {
        "CPU": max(
            training.num_workers * (training.cpus_per_worker + math.ceil(training.data_cpus)),
            answering.actors * answering.actor_cpus,
        ),
        "GPU": max(
            training.num_workers * training.gpus_per_worker,
            answering.actors * answering.actor_gpus,
        ),
    }
    room = min(
        int(resources.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need > 0
    )
    if room < 1:
        wanted = ", ".join(f"{need:g} {kind}s" for kind, need in needs.items() if need)
        there = ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in needs if needs[kind])
        raise ClusterError(
            f"a child needs {wanted} and the Ray cluster has {there}; lower train.cpus_per_worker "
            "or evaluate.actor_cpus, or add nodes"
        )
    return min(room, requested or room)


def reason_of(error: BaseException) -> str:
    """One line that says why a child failed."""
    failure = find_failure(error)
    if failure is not None:
        return failure.message
    logger.debug("a child failed", exc_info=error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def run_child(
    child: Child, workspace: Workspace, tracking_uri: str, tags: dict[str, str], board: StepBoard
) -> None:
    """Train a child and let it answer; what is done already is not done again."""
    common: dict[str, Any] = {
        "workspace": workspace,
        "dataset": child.dataset,
        "tracking_uri": tracking_uri,
    }
    for road in child.tests.values():  # before hours of training, not after
        asked_studies(workspace.dataset(child.dataset).path, road, child.split)
    train.run(road=child.road, tags=tags, board=board, **common)
    for test, road in child.tests.items():
        board.announce(f"answers {test}".strip())
        evaluate.run(road=road, split=child.split, gallery=0, **common)


def run_children(
    children: Sequence[Child],
    *,
    workspace: Workspace,
    tracking_uri: str,
    tags: Mapping[str, dict[str, str]],
    parallel: int,
    total: int,
) -> dict[str, str]:
    """Run children in the running Ray session.

    Args:
        children: those that are not finished.
        workspace: where everything lies.
        tracking_uri: MLflow store.
        tags: of each child's MLflow run, by label.
        parallel: how many run at once.
        total: children of the whole ablation, the finished ones among them.

    Returns:
        By label: why a child failed. Children that ended well are not in it.
    """
    import ray

    board = StepBoard.start()
    # a driver that dies with its node is started again: the training goes on from its checkpoint
    task = ray.remote(num_cpus=0, max_retries=2)(run_child)
    waiting, running, failures = deque(children), dict[Any, Child](), dict[str, str]()
    with _Display.showing(total, total - len(children)) as display:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    child = waiting.popleft()
                    arguments = (tracking_uri, tags[child.label], board.within(child.label))
                    running[task.remote(child, workspace, *arguments)] = child
                ended, _ = ray.wait(list(running), timeout=_LOOK_EVERY_S)
                for reference in ended:
                    child = running.pop(reference)
                    try:
                        ray.get(reference)
                    except Exception as error:
                        failures[child.label] = reason_of(error)
                    display.ended(child.label, failures.get(child.label))
                display.state([child.label for child in running.values()], board)
        except BaseException:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_CANCEL_S)
            raise
    return failures


class _Display:
    """One bar over the children on a terminal, one line for each elsewhere; on stderr."""

    def __init__(self, console: Console, bars: Progress | None, total: int, done: int) -> None:
        self._console, self._bars = console, bars
        self._total, self._done = total, done
        self._task = (
            bars.add_task("children", total=total, completed=done, now="") if bars else None
        )

    @classmethod
    @contextmanager
    def showing(cls, total: int, done: int) -> Iterator[Self]:
        console = Console(stderr=True, highlight=False)
        if not console.is_terminal:
            yield cls(console, None, total, done)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, console=console) as bars:
            yield cls(console, bars, total, done)

    def ended(self, label: str, reason: str | None) -> None:
        self._done += 1
        line = f"{self._done} of {self._total}: {label} {f'failed: {reason}' if reason else 'done'}"
        self._console.print(line, markup=False, soft_wrap=True)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done)

    def state(self, running: Sequence[str], board: StepBoard) -> None:
        if self._bars is None or self._task is None:
            return
        posts = board.read()
        now = []
        for label in running:
            own = [(part, post) for part, post in posts.items() if part.startswith(f"{label}: ")]
            part, (step, steps, note) = own[-1] if own else (f"{label}: starts", (0, 0, ""))
            now.append(f"{part} {step}/{steps} {note}" if steps else part)
        self._bars.update(self._task, now="; ".join(now))
