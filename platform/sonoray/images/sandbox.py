"""Processes for work on untrusted bytes: capped memory, capped time, and a crash costs one task.

Decoders are C and C++ that read what strangers wrote. Here they run in a few spawned processes that
stay up from task to task. Each has an address space limit (`RLIMIT_AS`, Linux alone) of what it
needs to start plus `memory_bytes`, so that a lie about a size ends in a `MemoryError` and not in a
killed host. A task that fails, whatever way, is a `RejectedImageError` with a reason; the next one
finds a working process.

`concurrent.futures.ProcessPoolExecutor` would be less code, but one crash breaks it whole and takes
the innocent tasks with it; hence one thread with one process and one pipe for each worker. So does
pebble 5.2: its workers share one pipe, and where one was killed while it sent a large result, the
next task timed out and the others ended in `BrokenProcessPool` after 120 s.
"""

import multiprocessing
import resource
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sonoray.images.decode import RejectedImageError

P = ParamSpec("P")
R = TypeVar("R")

_STATM = Path("/proc/self/statm")


class GuardedPool:
    """Runs functions in guarded processes; use it as a context manager.

    Functions and their arguments are pickled, and what they return as well.
    """

    def __init__(self, *, workers: int, memory_bytes: int, timeout_s: float) -> None:
        """Start nothing yet: each process starts with its first task.

        Args:
            workers: tasks at a time.
            memory_bytes: what a process may allocate on top of what it needs to start.
            timeout_s: longest time for a task.
        """
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="guard")
        self._own = threading.local()
        self._processes: list[_Process] = []
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=error is None, cancel_futures=True)
        self._is_over = True
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown()  # each has discarded the process that it waited for
        for process in self._processes:
            process.stop()

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `function` in a guarded process.

        The future raises `RejectedImageError`: the function's own, or one with the reason
        `out_of_memory`, `timeout`, `decoder_crashed` or, for any other exception, `unreadable`.
        That one names the exception and where it was raised, but not its text, which may quote a
        patient's data.
        """
        return self._threads.submit(self._run, function, args, kwargs)

    def _run(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:  # noqa: ANN401
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = _Process(self._memory_bytes)
            self._processes.append(process)
            if self._is_over:  # the pool ended while this one was started
                process.kill()
        try:
            problem, result = process.call((function, args, kwargs), self._timeout_s)
        except _LostError as error:
            self._discard(process)
            raise RejectedImageError(str(error)) from None
        if problem.startswith("out_of_memory:"):  # what it still holds is unknown
            self._discard(process)
        if problem:
            raise RejectedImageError(problem)
        value: R = result
        return value

    def _discard(self, process: "_Process") -> None:
        process.stop()
        self._processes.remove(process)
        self._own.process = None


class _LostError(Exception):
    """The process did not answer; the message is `reason: detail`."""


class _Process:
    """One guarded process and the pipe to it."""

    def __init__(self, memory_bytes: int) -> None:
        # spawned, not forked: the caller holds threads
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, memory_bytes), daemon=True)
        self._process.start()
        theirs.close()  # or its end would never be seen
        self._is_ready = False

    def call(self, task: Any, timeout_s: float) -> tuple[str, Any]:  # noqa: ANN401
        """Return the problem, if any, and the result of a task.

        Raises:
            _LostError: it took too long, or the process ended.
        """
        try:
            if not self._is_ready:  # starting takes its time on a busy machine, and is no task
                self._pipe.recv()
                self._is_ready = True
            self._pipe.send(task)
            if not self._pipe.poll(timeout_s):
                raise _LostError(f"timeout: not done after {timeout_s:g} s; the file is unusual")
            answer: tuple[str, Any] = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise _LostError(
                f"decoder_crashed: the process ended with {self._process.exitcode}; "
                "the file is damaged or hostile"
            ) from None
        return answer

    def kill(self) -> None:
        """End the process, whatever it does; who waits for its answer is told that it is lost."""
        self._process.kill()

    def stop(self) -> None:
        """End the process and let go of it; once, and by nobody else meanwhile."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, memory_bytes: int) -> None:
    """Answer tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the pool's end kills
    warnings.simplefilter("ignore")  # libraries quote what they complain about
    limit_memory(memory_bytes)
    pipe.send("ready")
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except (EOFError, OSError):  # whoever asked is gone
            return
        try:
            answer = ("", function(*args, **kwargs))
        except RejectedImageError as error:
            answer = (str(error), None)
        except MemoryError:
            answer = (
                f"out_of_memory: decoding needs more than {memory_bytes:,} bytes; raise "
                "worker_memory_bytes if the file is to be trusted",
                None,
            )
        except Exception as error:  # libraries raise anything on damaged files
            answer = (_describe(error), None)
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def limit_memory(memory_bytes: int) -> None:
    """Let this process allocate at most `memory_bytes` more than it has now."""
    if not _STATM.exists():  # not Linux: the limit is missing there, all else holds
        return
    pages = int(_STATM.read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _describe(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_globals.get('__name__')}"
    line = "" if trace is None else f":{trace.tb_lineno}"
    return f"unreadable: {type(error).__name__}{where}{line}; the file is damaged or incomplete"
