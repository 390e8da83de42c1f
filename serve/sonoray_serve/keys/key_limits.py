"""What one key may take: requests a minute, and requests at once.

A minute's requests are a bucket that fills steadily, so that a key may send them all at once and
then has to wait for each further one as long as that takes to come in. Counts are of one ingress
replica and of its event loop; a service with several lets a key have as much at each.
"""

import math
import time
from collections import Counter
from collections.abc import Callable

from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import KeyTerms


class KeyLimits:
    """Counts the requests of each key."""

    def __init__(
        self, *, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: what a key has whose terms say nothing else; 0 is without a limit."""
        self._per_minute = per_minute
        self._at_once = at_once
        self._clock = clock
        self._in_work: Counter[str] = Counter()
        self._left: dict[str, tuple[float, float]] = {}
        """Requests that a key has left, and when that was so."""

    def enter(self, key: str, terms: KeyTerms | None) -> None:
        """Let a key have one more request in work; `leave` ends it.

        Raises:
            ApiError: 429; it has too many.
        """
        per_minute = self._per_minute if terms is None else terms.per_minute or self._per_minute
        at_once = self._at_once if terms is None else terms.at_once or self._at_once
        if at_once and self._in_work[key] >= at_once:
            raise ApiError(Problem.KEY_AT_ONCE, limit=at_once)
        if per_minute:
            now = self._clock()
            left, since = self._left.get(key, (float(per_minute), now))
            left = min(left + (now - since) * per_minute / 60, float(per_minute))
            if left < 1:
                wait_s = math.ceil((1 - left) * 60 / per_minute)
                raise ApiError(Problem.KEY_PER_MINUTE, limit=per_minute, detail=str(wait_s))
            self._left[key] = (left - 1, now)
        self._in_work[key] += 1

    def leave(self, key: str) -> None:
        """A request of a key has ended."""
        self._in_work[key] -= 1
        if not self._in_work[key]:
            del self._in_work[key]
