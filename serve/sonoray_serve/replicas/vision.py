"""The vision deployment: images of a study in, fused tokens and feature scores out.

Encoding runs in threads of its own, so that the event loop stays free for Ray Serve's health
checks; torch releases the interpreter's lock while it computes. One study is one call of the
encoders with all of its images as a batch.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sonoray.errors import CheckpointError
from sonoray.images.decode import Pixels
from sonoray_serve.messages import EncodedStudy, Failed
from sonoray_serve.problems import Problem, contained
from sonoray_serve.replicas.loading import ModelSource, load_model

logger = logging.getLogger(__name__)


class Vision:
    """Owns the towers and the fusion."""

    def __init__(
        self, source: ModelSource, *, num_threads: int, weights_check_period_s: float
    ) -> None:
        self._model = load_model(source)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="encode")
        self._weights_check_period_s = weights_check_period_s
        self._weights_checked_at = time.monotonic()
        self._damage = ""

    async def encode(self, images: Sequence[Pixels]) -> EncodedStudy | Failed:
        """Encode one study: K images, uint8 (H, W) or (H, W, 3).

        Raises:
            InternalError: the encoders failed; says where, never on what.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._encode, images)

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises three times in a row.

        Raises:
            CheckpointError: the towers in memory are no longer the exported ones; from then on
                every time, since no later check makes them right again.
        """
        now = time.monotonic()
        if now - self._weights_checked_at >= self._weights_check_period_s:
            self._weights_checked_at = now
            await asyncio.to_thread(self._check_towers)
        if self._damage:
            raise CheckpointError(self._damage)

    def _check_towers(self) -> None:
        try:
            self._model.check_towers()
        except CheckpointError as error:
            self._damage = str(error)

    @contained(logger)
    def _encode(self, images: Sequence[Pixels]) -> EncodedStudy | Failed:
        try:
            visual = self._model.assistant.encode(images)
        except ValueError:  # the model's word for images that it cannot take
            return Failed(problem=Problem.IMAGE_NOT_ACCEPTED)
        return EncodedStudy(
            tokens=visual.tokens.numpy(),
            feature_scores=visual.feature_scores.numpy(),
            digest=self._model.digest,
        )
