"""How a candidate's answers compare with those that were given: a table of counts and digests.

No text is in it. A row names the answer, so that what people said of it (`feedback_table`) can be
held against the difference.
"""

import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData, Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One question that two models have answered."""

    answer_id: str
    served_digest: str
    """Of the model whose answer was given."""
    candidate_digest: str
    is_closed: bool
    same_text: bool
    """Whether both gave the same answer; of a closed question the same option."""
    same_images: bool
    """Whether both answers rest on the same images."""
    served_tokens: int
    candidate_tokens: int
    served_text: str
    """Digest of the text, by a key that the process drew: equal texts have equal digests in it, and
    nobody can try out what was said."""
    candidate_text: str
    took_s: float
    """Of the candidate."""


@cache
def tables() -> tuple["MetaData", "Table"]:
    """The schema: all of it, and `comparison`."""
    from sqlalchemy import Boolean, Column, Float, Integer, MetaData, String, Table

    schema = MetaData()
    digests = ("served_digest", "candidate_digest", "served_text", "candidate_text")
    facts = ("is_closed", "same_text", "same_images")
    return schema, Table(
        "comparison",
        schema,
        Column("id", Integer, primary_key=True),
        Column("at", String(20), nullable=False),
        Column("answer_id", String(80), nullable=False),
        *(Column(name, String(64), nullable=False) for name in digests),
        *(Column(name, Boolean, nullable=False) for name in facts),
        Column("served_tokens", Integer, nullable=False),
        Column("candidate_tokens", Integer, nullable=False),
        Column("took_s", Float, nullable=False),
    )


def add_comparison(engine: "Engine", compared: Comparison) -> None:
    """Keep one comparison."""
    from sqlalchemy import insert

    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with engine.begin() as connection:
        connection.execute(insert(tables()[1]).values(at=at, **asdict(compared)))
