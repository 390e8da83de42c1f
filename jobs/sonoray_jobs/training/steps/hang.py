"""Workers that wait for one that does not come: a time-out with its cause, not an endless wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sonoray.errors import JobFailedError


@contextmanager
def named_hang(rank: int, timeout_s: float, where: Callable[[], str]) -> Iterator[None]:
    """Say in the block's error that other workers did not answer, where that is why it failed.

    A worker that died closes its connections and is named by Ray Train. One that hangs does not:
    torch ends the operation after `timeout_s` with a `RuntimeError` that names a socket (gloo). Of
    NCCL it ends the process.

    Args:
        rank: of this worker.
        timeout_s: `train.collective_timeout_s`.
        where: says how far this worker is.

    Raises:
        JobFailedError: a collective operation timed out.
    """
    try:
        yield
    except RuntimeError as error:
        if "timed out" not in str(error).lower():
            raise
        raise JobFailedError(
            f"worker {rank} waited {timeout_s:g} s at {where()} for another worker, which hangs or "
            "is far slower: a stopped process, a machine that swaps, storage that does not answer; "
            "raise train.collective_timeout_s if it only needs longer"
        ) from error
