"""What people said of answers: two tables, and their rows.

A row has the answer's id, a rating, and what was sent with it: question, answer, correction,
options, and the pictures as the model was shown them (cut and cleaned). There is one row for each
answer: who says something else later replaces it. Who said it is the beginning of a key's digest.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData, Table

Rating = Literal["good", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Feedback:
    """What one person said of one answer."""

    answer_id: str
    rating: Rating
    key: str
    """Beginning of the digest of the key that the answer was given to."""
    model_digest: str
    """Beginning of the digest of the model that gave it."""
    question: str = field(default="", repr=False)
    answer: str = field(default="", repr=False)
    corrected_text: str = field(default="", repr=False)
    options: tuple[str, ...] = field(default=(), repr=False)
    images: tuple[bytes, ...] = field(default=(), repr=False)
    """As PNG, in the order of the study."""
    at: str = ""
    """When it came, in UTC; of a new one empty."""


@cache
def tables() -> tuple["MetaData", "Table", "Table"]:
    """The schema: all of it, `feedback` and `feedback_image`."""
    from sqlalchemy import (
        Column,
        ForeignKey,
        Integer,
        LargeBinary,
        MetaData,
        String,
        Table,
        Text,
    )

    schema = MetaData()
    texts = ("question", "answer", "corrected_text", "options")
    rows = Table(
        "feedback",
        schema,
        Column("id", Integer, primary_key=True),
        Column("at", String(20), nullable=False),
        Column("answer_id", String(80), nullable=False, unique=True),
        Column("key", String(12), nullable=False),
        Column("model_digest", String(12), nullable=False),
        Column("rating", String(4), nullable=False),
        *(Column(name, Text, nullable=False) for name in texts),
    )
    images = Table(
        "feedback_image",
        schema,
        Column("feedback", Integer, ForeignKey("feedback.id"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("png", LargeBinary, nullable=False),
    )
    return schema, rows, images


def add_feedback(engine: "Engine", said: Feedback) -> None:
    """Keep what somebody said, in place of what was said of the same answer before."""
    from sqlalchemy import delete, func, insert, select

    _, rows, images = tables()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite has one writer at a time
            turn = func.pg_advisory_xact_lock(func.hashtext(said.answer_id))
            connection.execute(select(turn))
        old = select(rows.c.id).where(rows.c.answer_id == said.answer_id)
        connection.execute(delete(images).where(images.c.feedback.in_(old)))
        connection.execute(delete(rows).where(rows.c.answer_id == said.answer_id))
        made = connection.execute(
            insert(rows).values(
                at=said.at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                answer_id=said.answer_id,
                key=said.key,
                model_digest=said.model_digest,
                rating=said.rating,
                question=said.question,
                answer=said.answer,
                corrected_text=said.corrected_text,
                options=json.dumps(said.options, ensure_ascii=False),
            )
        )
        assert made.inserted_primary_key is not None
        row_id = made.inserted_primary_key[0]
        if said.images:
            connection.execute(
                insert(images),
                [
                    {"feedback": row_id, "position": position, "png": png}
                    for position, png in enumerate(said.images)
                ],
            )


def read_pictures(engine: "Engine", answer_id: str) -> tuple[bytes, ...]:
    """The pictures that were sent with what was said of an answer; none where nothing was."""
    from sqlalchemy import select

    _, rows, images = tables()
    wanted = (
        select(images.c.png)
        .join(rows, images.c.feedback == rows.c.id)
        .where(rows.c.answer_id == answer_id)
        .order_by(images.c.position)
    )
    with engine.connect() as connection:
        return tuple(png for (png,) in connection.execute(wanted))


def iter_feedback(engine: "Engine") -> Iterator[Feedback]:
    """Yield everything that was said, in the order in which it came.

    A service may write meanwhile: each answer's words and pictures are read in one statement, as
    they are at that moment. No lock is held while the caller works, and answers that were not there
    at the beginning are not among them.
    """
    from sqlalchemy import select

    _, rows, images = tables()
    with engine.connect() as connection:
        answer_ids = connection.scalars(select(rows.c.answer_id).order_by(rows.c.id)).all()
    for answer_id in answer_ids:
        wanted = (
            select(rows, images.c.png)
            .outerjoin(images, images.c.feedback == rows.c.id)
            .where(rows.c.answer_id == answer_id)
            .order_by(images.c.position)
        )
        with engine.connect() as connection:
            found = connection.execute(wanted).all()
        if not found:  # somebody took it out by hand
            continue
        row = found[0]
        yield Feedback(
            at=row.at,
            answer_id=row.answer_id,
            key=row.key,
            model_digest=row.model_digest,
            rating=row.rating,
            question=row.question,
            answer=row.answer,
            corrected_text=row.corrected_text,
            options=tuple(json.loads(row.options)),
            images=tuple(each.png for each in found if each.png is not None),
        )
