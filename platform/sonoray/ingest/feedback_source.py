"""What people said of a service's answers, as a source of training.

The table that `POST /v1/feedback` fills (`sonoray.records.feedback_table`) becomes studies: what
was said about the same pictures is one study, each question with the answer that somebody held to
be right: the correction, or the answer itself where it was rated good. Where several people were
asked for the same, the last one counts.

What nothing can be learned from is a row in quarantine with its reason: `no_images` and
`no_question` (sent without them), `no_correction` (rated bad, and nobody said what is right),
`superseded` (somebody later said something else).

The table names no patient, so the same pictures are taken for one patient, and pictures that are
nearly so are kept in one split by ingest. Pictures of test patients can be among them: look for
them before anything is trained (`sonoray ingest` prints near duplicates; `sonoray audit` compares
datasets).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sonoray.ingest.sources.inputs import unusable
from sonoray.records.database import open_database
from sonoray.records.feedback_table import Feedback, iter_feedback, read_pictures, tables
from sonoray.study.contract import Task, Turn
from sonoray.study.raw import RawImage, RawStudy

TOPIC = "feedback"
"""Topic of every turn: nobody says which it is."""


class FeedbackSource:
    """Reads a service's feedback."""

    public = False

    def __init__(self, url: str, name: str = "feedback") -> None:
        """Open the database.

        Args:
            url: path of a SQLite file, or a SQLAlchemy URL.
            name: of the dataset.

        Raises:
            DataError: it cannot be read.
        """
        self.name = name
        self._engine = open_database(url, tables()[0], create=False)

    def config(self) -> dict[str, Any]:
        """Nothing shapes the output but the table."""
        return {}

    def input_digest(self) -> str:
        """Sha256 (hex) over all rows and pictures."""
        digest = hashlib.sha256()
        for said in iter_feedback(self._engine):
            texts = (said.answer_id, said.at, said.rating, said.question, said.answer)
            for text in (*texts, said.corrected_text, *said.options):
                digest.update(hashlib.sha256(text.encode()).digest())
            digest.update(_pictures(said).encode())
        return digest.hexdigest()

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study for each set of pictures, and one refused row for each useless one.

        A service may write meanwhile. So the rows are looked at once, and what replaces one of
        them later is left to the next ingest.
        """
        rows: list[tuple[Feedback, str]] = []
        latest: dict[tuple[str, str], str] = {}
        for said in iter_feedback(self._engine):
            pictures = _pictures(said)
            if not _problem(said):
                latest[pictures, said.question] = said.answer_id
            # without its pictures, which are megabytes, but for what tells that it has some
            rows.append((replace(said, images=said.images and (b"",)), pictures))
        studies: dict[str, list[Feedback]] = {}
        for said, pictures in rows:
            problem = _problem(said)
            if not problem and latest[pictures, said.question] != said.answer_id:
                problem = "superseded: somebody later said something else about the same question"
            if problem:
                yield unusable(f"{self.name}/{said.answer_id}", problem, is_row=True)
            else:
                studies.setdefault(pictures, []).append(said)
        for pictures, told in studies.items():
            images = self._images(told, pictures)
            if not images:
                for said in told:
                    problem = "superseded: somebody said something else while this was read"
                    yield unusable(f"{self.name}/{said.answer_id}", problem, is_row=True)
                continue
            ref = f"{self.name}/{pictures}"
            yield RawStudy(
                ref=ref,
                patient_ref=ref,  # a made-up one must mean no patient of another dataset
                images=tuple(
                    RawImage(ref=f"{ref}#{number}", data=png) for number, png in enumerate(images)
                ),
                turns=tuple(map(_turn, told)),
                provenance=f"{self.name}: answers that people rated or corrected",
            )

    def _images(self, told: Sequence[Feedback], pictures: str) -> tuple[bytes, ...]:
        """The pictures of a study, from the first of its rows that still has them."""
        for said in told:
            images = read_pictures(self._engine, said.answer_id)
            if _digest(images) == pictures:
                return images
        return ()


def _problem(said: Feedback) -> str:
    if not said.images:
        return "no_images: it was sent without its images"
    if not said.question.strip():
        return "no_question: it was sent without its question"
    if not _text(said).strip():
        return "no_correction: it was rated bad, and nobody said what is right"
    return ""


def _text(said: Feedback) -> str:
    """What is held to be right."""
    return said.corrected_text or (said.answer if said.rating == "good" else "")


def _turn(said: Feedback) -> Turn:
    is_closed = _text(said) in said.options
    return Turn(
        question=said.question,
        answer=_text(said),
        task=Task.CLOSED if is_closed else Task.OPEN,
        topic=TOPIC,
        options=said.options if is_closed else (),
    )


def _pictures(said: Feedback) -> str:
    """What names a study: a digest over its pictures."""
    return _digest(said.images)


def _digest(images: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for png in images:
        digest.update(hashlib.sha256(png).digest())
    return digest.hexdigest()[:32]
