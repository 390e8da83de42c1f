"""How several roles of a served model consult on a question (`sonoray consult`)."""

from typing import Literal

from pydantic import Field

from sonoray.config.model import Config

Specialty = Literal[
    "breast",
    "thyroid",
    "liver",
    "kidney",
    "gynaecology",
    "obstetrics",
    "vessels",
    "heart",
    "muscles",
    "lung",
    "oncology",
]
"""A field of medicine that a specialist may be of."""


class ConsultConfig(Config):
    """How several roles of a served model consult on a question."""

    specialties: tuple[Specialty, ...] = Field(
        default=("breast", "thyroid", "liver", "kidney", "gynaecology", "oncology"), min_length=1
    )
    """Whom the general practitioner chooses from."""
    team: int = Field(default=2, ge=1)
    """How many specialists it chooses."""
    rounds: int = Field(default=2, ge=1)
    """Most rounds; one ends the consultation in which more than half of the roles agree."""
    exemplars: int = Field(default=2, ge=1)
    """Training studies whose reports the assistant is told, those that look most alike."""
    memory_studies: int = Field(default=512, ge=1)
    """Most training studies that are searched; each is shown to the service once."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Of what roles say, and of self-consistency; 0 takes the likeliest token each time."""
    seed: int = Field(default=0, ge=0)
    """Of the draws; equal seeds give equal traces."""
    statement_tokens: int = Field(default=48, ge=1)
    """Longest statement of a role."""
    discussion_chars: int = Field(default=240, ge=0)
    """Characters of what others said, or of reports, in front of a question, the latest; what the
    context of the model leaves beside its images."""
