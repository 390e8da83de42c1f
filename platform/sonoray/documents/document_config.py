"""How report pages are made and asked about (`sonoray documents`)."""

from typing import Literal, get_args

from pydantic import Field, field_validator

from sonoray.config.model import Config

PageKind = Literal["screenshot", "scan", "photo"]
"""How a page came to be an image: as drawn, scanned, or photographed."""
PAGE_KINDS: tuple[PageKind, ...] = get_args(PageKind)

QuestionTask = Literal["entity", "table", "numeric", "choice", "short"]
"""What a question asks for: a value of the header or the text, a cell of the table, arithmetic over
cells, one of several options, or a sentence."""
QUESTION_TASKS: tuple[QuestionTask, ...] = get_args(QuestionTask)


class DocumentsConfig(Config):
    """How report pages are made and asked about."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of names, measurements and captures; the records are those of `phantom.seed`."""
    records: int = Field(default=24, ge=1, le=10_000)
    """Reports that become pages, each once for every kind and strength."""
    kinds: tuple[PageKind, ...] = Field(default=PAGE_KINDS, min_length=1)
    """How pages are captured: `screenshot` (as drawn), `scan` (turned, grey, noisy), `photo` (in
    perspective, in shadow, blurred)."""
    strengths: tuple[float, ...] = Field(default=(0.5, 0.8, 1.0), min_length=1)
    """How bad scans and photographs are, above 0 and at most 1; a screenshot has no strength."""
    upside_down: bool = False
    """Whether pages may stand upside down: each is then read both ways up, in twice the time."""
    passage_chars: int = Field(default=120, ge=0)
    """Most characters of a page's text in front of a question to the model: the lines most like the
    question, in their order. Less where the model's context is shorter."""

    @field_validator("strengths")
    @classmethod
    def _check_strengths(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < each <= 1 for each in value):
            raise ValueError(f"strengths {list(value)} must be above 0 and at most 1")
        return value
