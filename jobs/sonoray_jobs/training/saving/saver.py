"""Writes a training's checkpoints behind its steps, one at a time.

The workers gather what is learned and go on; one thread of rank 0 turns it into files and commits
them (`sonoray_jobs.training.saving.checkpoint_store`). Training waits only where the checkpoint
before is still being written.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from safetensors.torch import save
from torch import Tensor

from sonoray.errors import CheckpointError
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position

OPTIMIZER = "optimizer.safetensors"
WEIGHTS = "weights.safetensors"


@dataclass(kw_only=True)
class Saver:
    """Writes to one store; of rank 0 alone. Close it."""

    store: CheckpointStore
    keep: int
    """Newest checkpoints that stay."""
    keep_best: bool
    """Whether that of the lowest validation loss of its stage stays too."""
    say: Callable[[str], None]
    """Tells the driver a line."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _running: Future[None] | None = None
    _failed: str = ""
    """Why the newest checkpoint was not written; empty where it was."""

    def save(
        self, position: Position, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        """Write a checkpoint soon.

        Args:
            position: how far it is.
            weights: what was learned, on the CPU; nobody may change it any more.
            moments: Adam's two of each.
        """
        self.wait()
        self._running = self._thread.submit(self._write, position, weights, moments)

    def wait(self) -> None:
        """Wait for what is being written."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def close(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()
        self._thread.shutdown()
        if self._failed:
            raise CheckpointError(self._failed)

    def _write(
        self, position: Position, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        try:
            self.store.write(position, checkpoint_files(weights, moments))
            best = self.store.best(position.stage) if self.keep_best else None
            self.store.prune(self.keep, protect=best)
            self._failed = ""
        except OSError as error:
            kept = "no checkpoint is there"
            with suppress(OSError):
                names = self.store.names()
                kept = f"{names[-1]} is the newest one" if names else kept
            why = os.strerror(error.errno) if error.errno else str(error)
            self._failed = (
                f"the checkpoint of step {position.steps} of stage {position.stage} could not be "
                f"saved in {self.store.root} ({why}), {kept}; make room there"
            )
            self.say(self._failed + "; the training goes on")


def checkpoint_files(
    weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> dict[str, bytes]:
    """The files of a checkpoint, by name."""
    return {
        name: save({key: tensor.contiguous() for key, tensor in tensors.items()})
        for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, moments))
    }
