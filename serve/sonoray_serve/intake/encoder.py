"""A study from its material to the tokens that the language side takes, under one bound of memory.

Chat, embeddings and recognition share it, so that no more studies are decoded at once than
`limits.studies_in_memory` says, whatever is asked of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from sonoray_serve.asking.studies import Seen
from sonoray_serve.intake.material import Material
from sonoray_serve.messages import EncodedStudy, Failed, ModelCard, VisionPort
from sonoray_serve.pictures.study_pictures import Picture, StudyImages
from sonoray_serve.problems import ApiError
from sonoray_serve.settings import Limits

Take = Callable[[Sequence[Picture]], None]
"""Takes of the pictures what outlives them; called in a thread."""


class StudyEncoder:
    """Has studies encoded; for one event loop."""

    def __init__(self, vision: VisionPort, *, limits: Limits) -> None:
        """Args: `vision` encodes; `limits` are the service's."""
        self._vision = vision
        self._limits = limits
        self._studies = asyncio.Semaphore(limits.studies_in_memory)

    def max_images(self, card: ModelCard) -> int:
        """Most pictures of a study that a model is asked about."""
        return min(self._limits.max_images, card.max_images)

    async def encode(
        self, material: Material, card: ModelCard, place: str, take: Take | None = None
    ) -> tuple[EncodedStudy, Seen]:
        """Encode a study, and tell what its pictures are.

        Args:
            material: what the pictures come from.
            card: of the model.
            place: the parameter that the study came in.
            take: needs the pixels too.

        Raises:
            ApiError: the study is refused.
        """
        async with AsyncExitStack() as held:
            async with material.open() as decode:
                await held.enter_async_context(self._studies)  # bounds the memory of pixels
                decoded = await asyncio.to_thread(decode, self.max_images(card))
                del decode
            seen = _seen(decoded)
            if take is not None:
                await asyncio.to_thread(take, decoded.pictures)
            pixels = [each.pixels for each in decoded.pictures]
            del decoded
            study = await self._vision.encode(pixels, card.digest)
            del pixels
        if isinstance(study, Failed):
            raise ApiError(study.problem, place, study.limit)
        return study, replace(seen, opinion=study.opinion)


def _seen(decoded: StudyImages) -> Seen:
    pictures = decoded.pictures
    return Seen(
        is_transparent=tuple(each.is_transparent for each in pictures),
        places=tuple((each.part, each.frame) for each in pictures),
        instances=tuple(each.instance for each in pictures if each.instance),
        left_out=decoded.left_out,
    )
