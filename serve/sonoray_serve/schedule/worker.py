"""The thread that owns the decoder and the tokenizer, and the way into it.

A decoder cannot be shared between threads: an adapter's hooks are state of the model, and a fast
tokenizer keeps settings that every call changes (two threads give about one prompt in a hundred
other tokens). So all that touches either runs here, and other threads leave requests and
cancellations, which are looked at before every step. The thread ends when there is nothing to do
and comes back with the next request.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sonoray_serve.problems import InternalError, contained
from sonoray_serve.schedule.meters import Counts
from sonoray_serve.schedule.scheduler import Scheduler
from sonoray_serve.schedule.ticket import Ticket

if TYPE_CHECKING:
    from llava_ultra.export.hosted import Hosted

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)

SHOW_PERIOD_S = 1.0
"""How often the counts are shown while there is work; Prometheus asks every 15 seconds or so."""


MAX_FAILURES_IN_A_ROW = 3
"""Calls of the decoder that fail one after the other; where a request is at fault, the next one's
succeed."""


class Worker:
    """Runs a scheduler in a thread of its own; its methods may be called from any other."""

    def __init__(self, scheduler: Scheduler, *, show: Callable[[Counts], None]) -> None:
        """Args: `show` is told the counts, now and then and whenever the work is done."""
        self._scheduler = scheduler
        self._show = show
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._orders: list[Callable[[], None]] = []
        self._is_running = False
        self._is_lost = False

    def submit(self, ticket: Ticket) -> None:
        """Take a request; its events go to `ticket.deliver`."""
        self._order(lambda: self._scheduler.add(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """Let a request go before the next step; nothing where it has ended."""
        self._order(lambda: self._scheduler.cancel(ticket))

    def admit(self, digest: str, hosted: "Hosted") -> Future[None]:
        """Let requests have another model; the future fails as `Scheduler.admit` does."""
        done: Future[None] = Future()

        def order() -> None:
            try:
                self._scheduler.admit(digest, hosted)
            except ValueError as error:  # what is wrong with the model spoils no answer
                done.set_exception(error)
            else:
                done.set_result(None)

        self._order(order)
        return done

    def run(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Do something with the decoder between two steps; answers wait that long."""
        done: Future[_Result] = Future()

        def order() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # it is told to whoever asked, and spoils no answer
                done.set_exception(error)

        self._order(order)
        return done

    def dismiss(self, digest: str) -> None:
        """Let no further request have a model."""
        self._order(lambda: self._scheduler.dismiss(digest))

    @property
    def is_lost(self) -> bool:
        """Whether the decoder gives nothing any more: only another process helps."""
        return self._is_lost or self._scheduler.failures_in_a_row >= MAX_FAILURES_IN_A_ROW

    def _tell(self, error: InternalError) -> bool:
        """Tell everybody of a failure of the scheduler itself; False where not even that works."""
        try:
            with contained(logger):
                self._scheduler.fail(error)
        except InternalError:
            self._is_lost = True
            return False
        return True

    def _order(self, order: Callable[[], None]) -> None:
        with self._lock:
            self._orders.append(order)
            if not self._is_running:
                self._is_running = True
                self._pool.submit(self._run)

    def _run(self) -> None:
        show_at = 0.0
        while True:
            with self._lock:
                orders, self._orders = self._orders, []
                if not orders and self._scheduler.is_idle:
                    self._show(self._scheduler.counts)
                    self._is_running = False
                    return
            try:
                with contained(logger):
                    for order in orders:
                        order()
                    self._scheduler.tick()
            except InternalError as error:
                if not self._tell(error):
                    return
            if time.monotonic() >= show_at:
                self._show(self._scheduler.counts)
                show_at = time.monotonic() + SHOW_PERIOD_S
