"""When a request's time is over: one deadline for all that is awaited on its behalf."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sonoray_serve.problems import ApiError, Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """When a request's time is over, on the event loop's clock."""

    at: float
    limit_s: float

    @classmethod
    def after(cls, limit_s: float) -> "Deadline":
        """The deadline of a request that begins now."""
        return cls(at=asyncio.get_running_loop().time() + limit_s, limit_s=limit_s)

    @property
    def left_s(self) -> float:
        """Seconds until then, never below 0."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Cancel what runs inside when the time is over.

        Raises:
            ApiError: 504.
        """
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError:
            raise ApiError(Problem.DEADLINE, limit=self.limit_s) from None
