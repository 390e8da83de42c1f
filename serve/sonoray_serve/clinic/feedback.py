"""`POST /v1/feedback`: what somebody says of an answer, kept in a table.

```
{"answer_id": "chatcmpl-...", "rating": "bad", "corrected_text": "...",
 "question": "...", "answer": "...", "images": ["data:image/png;base64,..."]}
```

The service keeps nothing of a request, so who wants a model to learn from an answer sends question
and images again. The pictures are kept as the model was shown them: cut and cleaned. Only the key
that got an answer may say something of it. `sonoray ingest feedback` reads the table.
"""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.records.database import open_database
from sonoray.records.feedback_table import Feedback, Rating, add_feedback, tables
from sonoray_serve.clinic.answer_ids import find_model
from sonoray_serve.pictures.data_urls import read_data_url
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import MAX_ITEMS, Limits
from sonoray_serve.shapes.api import MAX_OPTIONS, OptionText, parse_request

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


class FeedbackReceipt(BaseModel):
    """What has been kept."""

    object: Literal["feedback"] = "feedback"
    answer_id: str
    rating: Rating
    num_images: int
    """Pictures that were kept."""


class FeedbackBook:
    """Writes feedback into its table; opened with the first one."""

    def __init__(self, place: str, *, limits: Limits, pictures: StudyPictures) -> None:
        """Args: `place` is a path or a URL; empty where nothing is kept."""
        self._place = place
        self._limits = limits
        self._pictures = pictures
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()  # pixels of one at a time, and one opening

    async def add(self, body: Awaitable[bytes], key_digest: str) -> FeedbackReceipt:
        """Keep what one request says.

        Raises:
            ApiError: it is refused, or the table cannot be reached.
        """
        if not self._place:
            raise ApiError(Problem.NO_FEEDBACK)
        data = await body
        async with self._turn:
            return await asyncio.to_thread(self._add, data, key_digest)

    def _add(self, body: bytes, key_digest: str) -> FeedbackReceipt:
        limits = self._limits
        request = parse_request(FeedbackRequest, body, limits.max_marks)
        model = find_model(request.answer_id, key_digest)
        if model is None:
            raise ApiError(Problem.ANSWER_NOT_FOUND, "answer_id")
        texts = (request.question, request.answer, request.corrected_text)
        if sum(len(text or "") for text in texts) > 3 * limits.max_prompt_chars:
            raise ApiError(Problem.PROMPT_TOO_LONG, "corrected_text", 3 * limits.max_prompt_chars)
        encoded = [
            read_data_url(url, f"images[{number}]", limits)
            for number, url in enumerate(request.images[: limits.max_images + 1])
        ]
        pictures = self._pictures.decode(encoded, limits.max_images)
        said = Feedback(
            answer_id=request.answer_id,
            rating=request.rating,
            key=key_digest[:_KEY_CHARS],
            model_digest=model,
            question=request.question or "",
            answer=request.answer or "",
            corrected_text=request.corrected_text or "",
            options=tuple(request.options or ()),
            images=tuple(encode_png(picture.pixels) for picture in pictures),
        )
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
