"""The study of a request on its way to the engine: by its name where the engine has been given it.

A second question about a study says the same images again, byte for byte, or its UID, for which the
DICOMweb server lists the same instances. Then nothing is fetched or decoded, and vision is not
asked: the engine is told the study's name, and only where it has forgotten it (its memory for
studies is bounded, and another replica may be the one that is asked) the images are decoded and
encoded after all. The names here are no promise, they only save asking in vain. What a model's
student says of a study is noted with its name, so that a second question needs nobody else.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from sonoray_serve.messages import (
    EncodedStudy,
    EnginePort,
    Event,
    Forgotten,
    Opinion,
    Sampling,
    Study,
)

MAX_NAMES = 4_096
"""Studies whose names an ingress replica remembers: about a megabyte, some with UIDs of objects."""


def study_name(images: Sequence[bytes], digest: str) -> bytes:
    """What names a study: a digest of the model and of its encoded images in their order."""
    summed = hashlib.sha256(digest.encode())
    for image in images:
        summed.update(hashlib.sha256(image).digest())
    return summed.digest()


def stored_study_name(uids: Sequence[str], digest: str) -> bytes:
    """What names a study of the DICOMweb server: its UID and the instances that are shown of it.

    An instance does not change under its UID; one that is added to the study, or removed, makes
    another name of it.
    """
    listed = "\0".join(("stored study", digest, *uids))
    return hashlib.sha256(listed.encode()).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an answer says of a study's images."""

    is_transparent: tuple[bool, ...]
    places: tuple[tuple[int, int], ...] = ()
    """Of each picture, which of the request's images it comes from, and which frame of it; empty
    where every image is one picture."""
    instances: tuple[str, ...] = field(default=(), repr=False)
    """Of each picture, the SOP Instance UID of its object; empty where the images were sent."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Objects of the study that gave no picture, by reason."""
    opinion: Opinion | None = field(default=None, compare=False, repr=False)
    """What the model's student says of it, where it has one."""


class KnownStudies:
    """Studies that an engine was given, or a student asked about, by name; the newest are kept."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()

    def find(self, name: bytes) -> Seen | None:
        """What was noted of a study; None where nobody has answered about it."""
        found = self._seen.get(name)
        if found is not None:
            self._seen.move_to_end(name)
        return found

    def add(self, name: bytes, seen: Seen) -> None:
        """Note that somebody has answered about a study."""
        self._seen[name] = seen
        self._seen.move_to_end(name)
        if len(self._seen) > self._max_names:
            self._seen.popitem(last=False)


class AskedStudy:
    """The study of one request, and the way to ask an engine about it."""

    def __init__(
        self,
        engine: EnginePort,
        study: Study,
        seen: Seen,
        *,
        encode: Callable[[], Awaitable[tuple[EncodedStudy, Seen]]] | None = None,
    ) -> None:
        """Take a study.

        Args:
            engine: is asked.
            study: itself, or its name.
            seen: what the answer says of its images.
            encode: gives the study itself, and what it saw of it this time; needed for one that is
                named.
        """
        self.seen = seen
        self._engine = engine
        self._study = study
        self._encode = encode
        self._lock = asyncio.Lock()  # several questions of one request may find it forgotten

    @property
    def name(self) -> bytes:
        """What later questions may call it by; empty for a study that is not kept."""
        return self._study.name

    def release(self) -> None:
        """Let go of what the study could be encoded from: the last question has its answer.

        Not before: of several questions some may meet an engine that does not know the study.
        """
        self._encode = None

    async def generate(
        self, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages` about the study; see `EnginePort`."""
        study = self._study
        async with aclosing(self._engine.generate(study, messages, sampling)) as events:
            async for event in events:
                if isinstance(event, Forgotten):
                    break
                yield event
            else:
                return
        study = await self._whole()
        async with aclosing(self._engine.generate(study, messages, sampling)) as events:
            async for event in events:
                yield event

    async def _whole(self) -> EncodedStudy:
        async with self._lock:
            if not isinstance(self._study, EncodedStudy):
                assert self._encode is not None
                self._study, self.seen = await self._encode()
            return self._study
