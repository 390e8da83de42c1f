"""What is kept for the next question, up to a budget of bytes; what was used longest ago goes.

A key is a digest of all of the content, so whoever asks about the same images meets the same value,
and nobody can reach a value without having its content.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """Values by digest; not safe between threads."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[bytes, tuple[_Value, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> _Value | None:
        """The value, used just now; None where there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: bytes, value: _Value, *, size_bytes: int) -> None:
        """Keep a value; one that is larger than the whole budget is not kept."""
        if key in self._values or size_bytes > self._max_bytes:
            return
        while self.size_bytes + size_bytes > self._max_bytes:
            self.size_bytes -= self._values.popitem(last=False)[1][1]
        self._values[key] = (value, size_bytes)
        self.size_bytes += size_bytes
