"""The vision deployment: images of a study in, fused tokens and feature scores out.

Encoding runs in threads of its own, so that the event loop stays free for Ray Serve's health
checks; torch releases the interpreter's lock while it computes. One study is one call of the
encoders, with those of its images as a batch that were not encoded before: what the fusion made of
an image is kept by the image's own digest, up to a budget of bytes.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sonoray.errors import CheckpointError
from sonoray.images.decode import Pixels
from sonoray_serve.messages import EncodedStudy, Failed
from sonoray_serve.problems import Problem, contained
from sonoray_serve.replicas.kept import Kept
from sonoray_serve.replicas.loading import ModelSource, check_towers, load_vision_half
from sonoray_serve.schedule.meters import show_model

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Vision:
    """Owns the towers and the fusion."""

    def __init__(
        self,
        source: ModelSource,
        *,
        num_threads: int,
        weights_check_period_s: float,
        image_bytes: int,
    ) -> None:
        self._encoder, self._digest = load_vision_half(source)
        self._kept: Kept[Tensor] = Kept(max_bytes=image_bytes)
        self._lock = threading.Lock()  # of what is kept, between the threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="encode")
        self._weights_check_period_s = weights_check_period_s
        self._weights_checked_at = time.monotonic()
        self._damage = ""
        self._tell_model = show_model(self._digest)

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
        self._tell_model()
        now = time.monotonic()
        if now - self._weights_checked_at >= self._weights_check_period_s:
            self._weights_checked_at = now
            await asyncio.to_thread(self._check_towers)
        if self._damage:
            raise CheckpointError(self._damage)

    def _check_towers(self) -> None:
        try:
            check_towers(self._encoder)
        except CheckpointError as error:
            self._damage = str(error)

    @contained(logger)
    def _encode(self, images: Sequence[Pixels]) -> EncodedStudy | Failed:
        try:
            visual = self._encoder.score(images, self._fused(images))
        except ValueError:  # the model's word for images that it cannot take
            return Failed(problem=Problem.IMAGE_NOT_ACCEPTED)
        return EncodedStudy(
            tokens=visual.tokens.numpy(),
            feature_scores=visual.feature_scores.numpy(),
            digest=self._digest,
        )

    def _fused(self, images: Sequence[Pixels]) -> "Tensor":
        """Fused tokens (K, P, D): of new images from the encoders, of others what was kept."""
        import torch

        self._encoder.check_count(images)
        keys = [image_digest(image) for image in images]
        with self._lock:
            tokens = {key: kept for key in keys if (kept := self._kept.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in tokens}
        if new:
            for key, fused in zip(new, self._encoder.fuse(list(new.values())), strict=True):
                tokens[key] = fused
                with self._lock:
                    self._kept.put(key, fused.clone(), size_bytes=fused.nbytes)
        return torch.stack([tokens[key] for key in keys])


def image_digest(image: Pixels) -> bytes:
    """What names an image: a digest of its shape and its pixels."""
    return hashlib.sha256(f"{image.shape}|".encode() + image.tobytes()).digest()
