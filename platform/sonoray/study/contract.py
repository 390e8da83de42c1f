"""The study contract: one row per study, and the table of its images beside it.

A dataset folder (the output of an ingest stage) holds

- `studies/part-*.parquet`, schema `STUDY_SCHEMA`: one text, its images by id, no pixels;
- `images/part-*.parquet`, schema `IMAGE_SCHEMA`: each unique image once, as PNG, with its
  perceptual hash, and its lesion mask where the source has one;
- `quarantine.parquet`, schema `QUARANTINE_SCHEMA`: every reject with its reason.

A study may lack one half: an archive has images before it has reports, and a set of reports may
come without its images. Such studies are kept and counted, and `iter_studies` leaves them out
unless asked: nothing can be trained or judged on them.

A study asks several kinds of questions, so `task`, `topic` and `options` stand at the user's turn
and not at the study.

Pixels stay out of the study rows so that training, which reads features, never reads them, and the
embed stage, which reads pixels, sees each unique image once.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.errors import DataError

_ROWS_PER_GROUP = 128

SPLITS = ("train", "validation", "test")
STUDY_DATE_LABEL = "study_date"
"""Study label: the day of the examination, moved (see `sonoray.privacy.deidentify`)."""

TEXT_MASKED_LABEL = "text_masked"
"""Image label: what of burned-in text was covered, one of `sonoray.privacy.deidentify.Masked`."""

_LABELS = pa.map_(pa.string(), pa.string())

STUDY_SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_key", pa.string()),
        ("split", pa.string()),
        ("dataset", pa.string()),
        (
            "images",
            pa.list_(
                pa.struct(
                    [
                        ("image_id", pa.string()),
                        ("uri", pa.string()),
                        ("width", pa.int32()),
                        ("height", pa.int32()),
                        ("frame_index", pa.int32()),
                        ("source_ref", pa.string()),
                        ("labels", _LABELS),
                    ]
                )
            ),
        ),
        (
            "turns",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("text", pa.string()),
                        ("task", pa.string()),
                        ("topic", pa.string()),
                        ("options", pa.list_(pa.string())),
                    ]
                )
            ),
        ),
        ("labels", _LABELS),
        ("provenance", pa.string()),
    ]
)

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("perceptual_hash", pa.binary()),  # none for a picture without structure
        ("png", pa.binary()),
        ("mask_png", pa.binary()),
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        ("item", pa.string()),  # "study", "image" or "row"
        ("source_ref", pa.string()),
        ("study_id", pa.string()),  # the study that it is or belongs to
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)


class Task(StrEnum):
    """What kind of answer a question wants."""

    OPEN = "open"
    CLOSED = "closed"
    REPORT = "report"
    RECOGNITION = "recognition"
    CONTEXT = "context"
    """None: the turn is not asked, and stands where a later one needs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyImage:
    """One image of a study, by reference."""

    image_id: str
    """Sha256 (hex) of the decoded pixels and their geometry."""
    uri: str
    """File of the dataset's image table that holds the pixels, relative to the dataset folder."""
    width: int
    height: int
    frame_index: int = 0
    """Position in the cine loop that the frame was taken from; 0 for a still."""
    source_ref: str = ""
    """Where it came from: a file name of a public set, a keyed hash for a private one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What is known of this image alone, as `caption` or `shows_finding` (`0` or `1`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str
    task: Task = Task.OPEN
    options: tuple[str, ...] = ()
    """The admissible answers of a closed question, the true one among them."""
    topic: str = ""
    """What is asked for, as `pathology` or `side`; metrics are grouped by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One study: a text as question-answer pairs, and its images."""

    study_id: str
    patient_key: str
    split: str
    dataset: str
    images: tuple[StudyImage, ...]
    turns: tuple[Turn, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    provenance: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether it has both images and text."""
        return bool(self.images and self.turns)

    def to_row(self) -> dict[str, Any]:
        """Return the study as a row of `STUDY_SCHEMA`."""
        turns: list[dict[str, Any]] = []
        for turn in self.turns:
            turns.append(
                {
                    "role": "user",
                    "text": turn.question,
                    "task": turn.task.value,
                    "topic": turn.topic,
                    "options": list(turn.options),
                }
            )
            turns.append(
                {"role": "assistant", "text": turn.answer, "task": "", "topic": "", "options": []}
            )
        return {
            "study_id": self.study_id,
            "patient_key": self.patient_key,
            "split": self.split,
            "dataset": self.dataset,
            "images": [
                {
                    "image_id": image.image_id,
                    "uri": image.uri,
                    "width": image.width,
                    "height": image.height,
                    "frame_index": image.frame_index,
                    "source_ref": image.source_ref,
                    "labels": list(image.labels.items()),
                }
                for image in self.images
            ],
            "turns": turns,
            "labels": list(self.labels.items()),
            "provenance": self.provenance,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Study":
        """Read a study back from a row of `STUDY_SCHEMA`, as `Table.to_pylist` gives it.

        Raises:
            DataError: the turns do not alternate between user and assistant, or there is neither
                turn nor image.
        """
        turns = row["turns"]
        roles = [turn["role"] for turn in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2):
            raise DataError(
                f"study {row['study_id']!r}: turns are {roles}; they must alternate user, assistant"
            )
        if not row["images"] and not turns:
            raise DataError(
                f"study {row['study_id']!r} has no image and no turn; ingest must quarantine it"
            )
        return cls(
            study_id=row["study_id"],
            patient_key=row["patient_key"],
            split=row["split"],
            dataset=row["dataset"],
            images=tuple(
                StudyImage(**{**image, "labels": dict(image["labels"] or ())})
                for image in row["images"]
            ),
            turns=tuple(
                Turn(
                    question=user["text"],
                    answer=assistant["text"],
                    task=Task(user["task"]),
                    options=tuple(user["options"]),
                    topic=user["topic"],
                )
                for user, assistant in zip(turns[::2], turns[1::2], strict=True)
            ),
            labels=dict(row["labels"] or ()),
            provenance=row["provenance"],
        )


def write_studies(folder: Path, studies: Iterable[Study], *, rows_per_file: int = 2048) -> None:
    """Write `studies/part-*.parquet` below the dataset folder.

    Row groups are small, so that one study can be read without many others, and one of them is held
    at a time.
    """
    target = folder / "studies"
    target.mkdir(exist_ok=True)
    rest = iter(studies)
    for number in itertools.count():
        rows = (study.to_row() for study in itertools.islice(rest, rows_per_file))
        groups = iter(partial(_take, rows, _ROWS_PER_GROUP), [])
        first = next(groups, None)
        if first is None:
            return
        file = target / f"part-{number:05d}.parquet"
        with pq.ParquetWriter(file, STUDY_SCHEMA) as writer:
            for group in itertools.chain([first], groups):
                writer.write_table(pa.Table.from_pylist(group, schema=STUDY_SCHEMA))


def _take(rows: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next rows of an iterator."""
    return list(itertools.islice(rows, count))


def study_files(folder: Path) -> list[Path]:
    """Files of a dataset's study table, in order.

    Raises:
        DataError: the folder holds none.
    """
    files = sorted((folder / "studies").glob("part-*.parquet"))
    if not files:
        raise DataError(f"dataset folder {str(folder)!r} has no studies; run: sonoray ingest")
    return files


def iter_studies(
    folder: Path,
    *,
    split: str | None = None,
    only: Mapping[str, str] | None = None,
    complete: bool = True,
) -> Iterator[Study]:
    """Yield the studies of a dataset folder in file order.

    Args:
        folder: dataset folder.
        split: one of `SPLITS`, or None for all.
        only: labels that a study must have, by name; all of them where several are given.
        complete: leave out studies that have no image or no text.

    Raises:
        DataError: the folder holds no study table, or the split's name is unknown.
    """
    if split is not None and split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    files = study_files(folder)
    filters = None if split is None else [("split", "=", split)]
    for file in files:
        for row in pq.read_table(file, schema=STUDY_SCHEMA, filters=filters).to_pylist():
            study = Study.from_row(row)
            if complete and not study.is_complete:
                continue
            if all(study.labels.get(label) == value for label, value in (only or {}).items()):
                yield study
