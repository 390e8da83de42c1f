"""`POST /v1/feedback`: what somebody says of an answer, kept in a table.

```
{"answer_id": "chatcmpl-...", "rating": "bad", "corrected_text": "...",
 "question": "...", "answer": "...", "images": ["data:image/png;base64,..."]}
```

The service keeps nothing of a request, so who wants a model to learn from an answer sends question
and images again. The pictures are kept as the model was shown them: cut and cleaned. Only the key
that got an answer may say something of it. In place of images it may name the study of the DICOMweb
server that was asked about, whose pictures are then kept; the UID is not. `sonoray ingest feedback`
reads the table.
"""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.records.database import open_database
from sonoray.records.feedback_table import Feedback, Rating, add_feedback, tables
from sonoray_serve.clinic.answer_ids import find_model
from sonoray_serve.intake.material import Decode, Material, SentImages, StoredStudy
from sonoray_serve.intake.study_server import AskedUids, StudyServer
from sonoray_serve.pictures.data_urls import read_data_url
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import MAX_ITEMS, Limits
from sonoray_serve.shapes.api import MAX_OPTIONS, OptionText, Uid, parse_request

if TYPE_CHECKING:
    from sqlalchemy import Engine

_KEY_CHARS = 12
"""Of a key's digest, as in the audit log."""


class FeedbackRequest(BaseModel):
    """Body of `POST /v1/feedback`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    answer_id: Annotated[str, Field(min_length=1, max_length=80)]
    """The `id` of the answer."""
    rating: Rating
    corrected_text: str | None = None
    """What the answer should have been."""
    question: str | None = None
    """What was asked; with the next ones, for training."""
    answer: str | None = None
    """What was answered."""
    options: Annotated[list[OptionText], Field(max_length=MAX_OPTIONS)] | None = None
    """Of a closed question."""
    images: Annotated[list[str], Field(max_length=MAX_ITEMS)] = []
    """The study, as `data:` URLs."""
    study: Uid | None = None
    """Study Instance UID of a study of the service's DICOMweb server, in place of images."""
    instances: Annotated[list[Uid], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    """SOP Instance UIDs of that study, where not all of it was meant."""


class FeedbackReceipt(BaseModel):
    """What has been kept."""

    object: Literal["feedback"] = "feedback"
    answer_id: str
    rating: Rating
    num_images: int
    """Pictures that were kept."""


class FeedbackBook:
    """Writes feedback into its table; opened with the first one."""

    def __init__(
        self, place: str, *, limits: Limits, pictures: StudyPictures, server: StudyServer
    ) -> None:
        """Write nothing yet.

        Args:
            place: a path or a URL; empty where nothing is kept.
            limits: the service's.
            pictures: decodes images.
            server: has the studies that requests name by UID.
        """
        self._place = place
        self._server = server
        self._limits = limits
        self._pictures = pictures
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()  # pixels of one at a time, and one opening
        # a thread of its own: a database that is slow holds up nobody but who writes into it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")

    async def add(
        self, body: Awaitable[bytes], key_digest: str, *, opens_studies: bool = False
    ) -> FeedbackReceipt:
        """Keep what one request says.

        Args:
            body: the body as it arrives.
            key_digest: of the key that asks.
            opens_studies: whether it may name a study of the DICOMweb server.

        Raises:
            ApiError: it is refused, or the table cannot be reached.
        """
        if not self._place:
            raise ApiError(Problem.NO_FEEDBACK)
        request, said, images = await asyncio.to_thread(self._read, await body, key_digest)
        material: Material = SentImages(images=images, pictures=self._pictures)
        if request.study is not None:
            if not opens_studies:
                raise ApiError(Problem.KEY_NOT_FOR_STUDIES, "study")
            asked = AskedUids(
                study=request.study, instances=tuple(request.instances or ()), place="study"
            )
            listed = await self._server.find(asked, self._limits.max_images)
            material = StoredStudy(listed=listed, server=self._server, pictures=self._pictures)
        loop = asyncio.get_running_loop()
        async with material.open() as decode, self._turn:
            return await loop.run_in_executor(self._thread, self._keep, said, decode)

    def _read(self, body: bytes, key_digest: str) -> tuple[FeedbackRequest, Feedback, list[bytes]]:
        limits = self._limits
        request = parse_request(FeedbackRequest, body, limits.max_marks)
        model = find_model(request.answer_id, key_digest)
        if model is None:
            raise ApiError(Problem.ANSWER_NOT_FOUND, "answer_id")
        texts = (request.question, request.answer, request.corrected_text)
        if any("\0" in (text or "") for text in (*texts, *(request.options or ()))):
            raise ApiError(Problem.INVALID_VALUE)  # PostgreSQL has no such character
        if sum(len(text or "") for text in texts) > 3 * limits.max_prompt_chars:
            raise ApiError(Problem.PROMPT_TOO_LONG, "corrected_text", 3 * limits.max_prompt_chars)
        encoded = [
            read_data_url(url, f"images[{number}]", limits)
            for number, url in enumerate(request.images[: limits.max_images + 1])
        ]
        if request.study is not None and encoded:
            raise ApiError(Problem.STUDY_AND_IMAGES, "study")
        if request.study is None and request.instances:
            raise ApiError(Problem.NO_STUDY_NAMED, "study")
        said = Feedback(
            answer_id=request.answer_id,
            rating=request.rating,
            key=key_digest[:_KEY_CHARS],
            model_digest=model,
            question=request.question or "",
            answer=request.answer or "",
            corrected_text=request.corrected_text or "",
            options=tuple(request.options or ()),
        )
        return request, said, encoded

    def _keep(self, said: Feedback, decode: Decode) -> FeedbackReceipt:
        pictures = decode(self._limits.max_images).pictures
        said = replace(said, images=tuple(encode_png(each.pixels) for each in pictures))
        self._write(said)
        return FeedbackReceipt(
            answer_id=said.answer_id, rating=said.rating, num_images=len(said.images)
        )

    def _write(self, said: Feedback) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self._engine is None:
                self._engine = open_database(self._place, tables()[0])
            add_feedback(self._engine, said)
        except (DataError, SQLAlchemyError):  # its text may hold a parameter or an address
            raise ApiError(Problem.UNAVAILABLE) from None
