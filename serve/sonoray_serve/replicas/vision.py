"""The vision deployment: images of a study in, fused tokens and feature scores out.

Encoding runs in threads of its own, so that the event loop stays free for Ray Serve's health
checks; torch releases the interpreter's lock while it computes. One study is one call of the
encoders, with those of its images as a batch that were not encoded before: what the fusion made of
an image is kept by the image's own digest, up to a budget of bytes. A model's student reads the
towers' features while they are there: its opinion goes with every study, whoever answers.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sonoray.errors import CheckpointError, SonoError
from sonoray.images.decode import Pixels
from sonoray_serve.messages import EncodedStudy, Failed, Opinion
from sonoray_serve.problems import Problem, contained
from sonoray_serve.replicas.hosting import read_encoder
from sonoray_serve.replicas.kept import Kept
from sonoray_serve.replicas.loading import ModelSource, check_towers, load_vision_half
from sonoray_serve.replicas.pod_ready import wait_for_pod
from sonoray_serve.schedule.autoscale import WORK
from sonoray_serve.schedule.meters import show_model
from sonoray_serve.settings import Roster

if TYPE_CHECKING:
    from torch import Tensor

    from llava_ultra.export.encoder import FusedImages, StudyEncoder

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 4
"""Images of a usual study."""


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
        self._source = source
        self._encoder, self._digest = load_vision_half(source)
        self._encoders = {self._digest: self._encoder}
        self._kept: Kept[tuple[Tensor, Tensor]] = Kept(max_bytes=image_bytes)
        self._lock = threading.Lock()  # of what is kept, between the threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="encode")
        self._num_threads = num_threads
        self._num_images = 0
        self._weights_check_period_s = weights_check_period_s
        self._weights_checked_at = time.monotonic()
        self._damage = ""
        self._tell_models = {self._digest: show_model(self._digest)}
        wait_for_pod()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Called by Ray Serve with a `Roster`; see `Engine.reconfigure`."""
        wanted = {model.digest: model.model for model in Roster.model_validate(config).models}
        if not wanted:
            return
        for digest, model in wanted.items():
            if digest in self._encoders:
                continue
            source = replace(self._source, model=model, digest=digest)
            try:
                encoder = await asyncio.to_thread(read_encoder, source, self._encoder)
            except (SonoError, ValueError) as error:
                logger.error("model %s is left out: %s", digest[:16], error)
                continue
            self._encoders[digest] = encoder
            self._tell_models[digest] = show_model(digest)
        for digest in self._encoders.keys() - wanted.keys():
            del self._encoders[digest]
            del self._tell_models[digest]

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy | Failed:
        """Encode one study for the model of that digest: K images, uint8 (H, W) or (H, W, 3).

        Raises:
            InternalError: the encoders failed; says where, never on what.
        """
        loop = asyncio.get_running_loop()
        encoder = self._encoders.get(digest)
        if encoder is None:  # its model has left, or is not here yet
            return Failed(problem=Problem.UNAVAILABLE)
        self._num_images += len(images)
        try:
            return await loop.run_in_executor(self._pool, self._encode, images, encoder, digest)
        finally:
            self._num_images -= len(images)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve; see `schedule.autoscale`. A thread is busy with four images."""
        return {WORK: self._num_images / (IMAGES_AT_ONCE * self._num_threads)}

    async def ready(self) -> str:
        """See `VisionPort`."""
        return self._digest

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises three times in a row.

        Raises:
            CheckpointError: the towers in memory are no longer the exported ones; from then on
                every time, since no later check makes them right again.
        """
        for tell in self._tell_models.values():
            tell()
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
    def _encode(
        self, images: Sequence[Pixels], encoder: "StudyEncoder", digest: str
    ) -> EncodedStudy | Failed:
        try:
            fused = self._fused(images, encoder, digest)
            visual = encoder.score(images, fused.tokens)
        except ValueError:  # the model's word for images that it cannot take
            return Failed(problem=Problem.IMAGE_NOT_ACCEPTED)
        return EncodedStudy(
            tokens=visual.tokens.numpy(),
            feature_scores=visual.feature_scores.numpy(),
            digest=digest,
            opinion=None if encoder.student is None else _opinion(encoder, fused.pooled),
        )

    def _fused(
        self, images: Sequence[Pixels], encoder: "StudyEncoder", digest: str
    ) -> "FusedImages":
        """What becomes of K images: of new ones from the encoders, of others what was kept."""
        import torch

        from llava_ultra.export.encoder import FusedImages

        encoder.check_count(images)
        # each model fuses in its own way
        keys = [bytes.fromhex(digest) + image_digest(image) for image in images]
        with self._lock:
            found = {key: kept for key in keys if (kept := self._kept.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if new:
            fused = encoder.fuse(list(new.values()))
            for key, *own in zip(new, fused.tokens, fused.pooled, strict=True):
                found[key] = (own[0], own[1])
                with self._lock:
                    kept = (own[0].clone(), own[1].clone())
                    self._kept.put(key, kept, size_bytes=sum(each.nbytes for each in own))
        tokens, pooled = zip(*(found[key] for key in keys), strict=True)
        return FusedImages(tokens=torch.stack(tokens), pooled=torch.stack(pooled))


def _opinion(encoder: "StudyEncoder", pooled: "Tensor") -> Opinion:
    logits, looks = encoder.opine(pooled)
    return Opinion(logits=logits.numpy(), looks=looks.numpy())


def image_digest(image: Pixels) -> bytes:
    """What names an image: a digest of its shape and its pixels."""
    return hashlib.sha256(f"{image.shape}|".encode() + image.tobytes()).digest()
