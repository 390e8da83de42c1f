"""What a job returns to whoever ran it: lines for a person, plain values for a script."""

from typing import Any, Protocol


class Result(Protocol):
    """What every job returns; one that can fail and yet be shown has an `exit_code`."""

    def lines(self) -> list[str]:
        """Return what a person reads."""

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
