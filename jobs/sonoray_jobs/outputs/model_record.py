"""What an exported model keeps of its making, so that others can judge it: nothing of a patient.

```
record.json               format of the features, number of training patients, the closed topics
training_images.parquet   exact and perceptual hash of every image that it learned from
internal_test.parquet     the internal test: closed answers, their likelihoods, a patient's number,
                          a hash of the study's images
```

They lie in the model's folder, and the manifest's provenance pins each by its sha256. No patient
key, study id or text of a patient is in them, and of a picture no more than its hash with 16 x 16
values of detail: who holds it can tell whether it was trained on, which is what they are for. Who
holds the images of a test study can tell its answers; by them two models are compared.
`sonoray export` writes them (`release.collect_record`),
`sonoray validate` reads them.

A closed topic is kept where it can be asked of other studies: one set of options, few wordings, and
a question that at least two training patients were asked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from sonoray.config.model import Config
from sonoray.errors import CheckpointError
from sonoray.features.format_names import FormatName
from sonoray.files.json_files import write_json
from sonoray.metrics.answers import AnswerRecord

RECORD = "record"
"""Key of the manifest's provenance that holds the digests."""

_FACTS, _IMAGES, _TEST = "record.json", "training_images.parquet", "internal_test.parquet"
_IMAGE_SCHEMA = pa.schema([("image_id", pa.binary(32)), ("perceptual_hash", pa.binary())])
_TEST_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("patient", pa.int32()),
        ("topic", pa.string()),
        ("truth", pa.string()),
        ("answer", pa.string()),
        ("option_scores", pa.string()),
    ]
)

_HASH_LENGTH = 32
"""Hex digits of a study's hash."""

Hashes = Mapping[str, bytes | None]
"""Perceptual hash by image id; None for a picture without structure."""


class TopicRecord(Config):
    """A closed topic that the model was trained on."""

    question: str
    """Its commonest wording in training."""
    options: tuple[str, ...]
    """In the order of training; of two, the last one is positive where nothing else is said."""
    answers: dict[str, int]
    """How often each was the answer in training."""


class ModelFacts(Config):
    """What `record.json` holds."""

    dtype: FormatName
    """Format of the features that the model was trained on."""
    near_duplicate_distance: int
    """Bits up to which two hashes are one picture, as in the ingest of its dataset."""
    near_duplicate_correlation: float
    """Correlation of detail from which two hashes further apart are one, as there."""
    num_training_patients: int
    topics: dict[str, TopicRecord]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """The record of an exported model."""

    facts: ModelFacts
    training_images: Hashes
    internal_test: Sequence[AnswerRecord]
    """Empty where the model was exported before its internal test."""


def write_record(folder: Path, record: ModelRecord) -> dict[str, str]:
    """Write the record into a model's folder.

    Returns:
        Sha256 (hex) of each file, for the manifest's provenance.
    """
    write_json(folder / _FACTS, record.facts.model_dump(mode="json"))
    images = sorted(record.training_images.items())  # in no order that tells of patients
    rows = [
        {"image_id": bytes.fromhex(image_id), "perceptual_hash": look} for image_id, look in images
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_IMAGE_SCHEMA), folder / _IMAGES)
    files = [_FACTS, _IMAGES]
    if record.internal_test:
        answers = answer_rows(record.internal_test)
        pq.write_table(pa.Table.from_pylist(answers, schema=_TEST_SCHEMA), folder / _TEST)
        files.append(_TEST)
    return {name: _digest(folder / name) for name in files}


def study_of(image_ids: Sequence[str]) -> str:
    """What a study of the internal test is called before it is hashed: its images, in any order."""
    return ",".join(sorted(image_ids))


def answer_rows(answers: Sequence[AnswerRecord]) -> list[dict[str, Any]]:
    """The internal test as plain rows; a patient becomes a number, a study its hash.

    Args:
        answers: their `study_id` names the images of the study (`study_of`), so that another model
            that was asked about the same images has the same hash.
    """
    numbers = {key: number for number, key in enumerate(sorted({a.patient_key for a in answers}))}
    return [
        {
            "study": hashlib.sha256(answer.study_id.encode()).hexdigest()[:_HASH_LENGTH],
            "patient": numbers[answer.patient_key],
            "topic": answer.topic,
            "truth": answer.truth,
            "answer": answer.answer,
            "option_scores": json.dumps(dict(answer.option_scores), ensure_ascii=False),
        }
        for answer in answers
    ]


def read_record(folder: Path, manifest: Mapping[str, Any]) -> ModelRecord:
    """Read the record of an exported model.

    Args:
        folder: the model's.
        manifest: its manifest, which holds the digests.

    Raises:
        CheckpointError: there is none, or a file of it is missing or another one.
    """
    digests: Mapping[str, str] = manifest["provenance"].get(RECORD) or {}
    if not {_FACTS, _IMAGES} <= digests.keys():
        raise CheckpointError(
            f"model {str(folder)!r} holds no hashes of its training images, so that nobody can "
            "tell whether it saw a dataset; export it again with this version"
        )
    for name, expected in digests.items():
        if not (folder / name).is_file() or _digest(folder / name) != expected:
            raise CheckpointError(
                f"{name} of model {str(folder)!r} is missing or not the exported one; copy the "
                "whole folder again, or export it again"
            )
    try:
        facts = ModelFacts.model_validate_json((folder / _FACTS).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise CheckpointError(
            f"{_FACTS} of model {str(folder)!r} is of another version ({error.error_count()} keys "
            "do not fit); export it again with this version"
        ) from None
    table = pq.read_table(folder / _IMAGES, schema=_IMAGE_SCHEMA)
    ids, looks = (table[name].to_pylist() for name in table.column_names)
    test = pq.read_table(folder / _TEST).to_pylist() if _TEST in digests else []
    return ModelRecord(
        facts=facts,
        training_images={image_id.hex(): look for image_id, look in zip(ids, looks, strict=True)},
        internal_test=[_to_answer(number, row) for number, row in enumerate(test)],
    )


def _to_answer(number: int, row: Mapping[str, Any]) -> AnswerRecord:
    scores = json.loads(row["option_scores"])
    return AnswerRecord(
        study_id=row.get("study", f"internal {number}"),  # of before studies had a hash
        patient_key=f"internal {row['patient']}",
        topic=row["topic"],
        truth=row["truth"],
        answer=row["answer"],
        options=tuple(scores),
        option_scores=scores,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
