"""Collects what an exported model keeps of its making (`sonoray_jobs.outputs.model_record`).

All images of training patients count as learned from, whether a setting left their study out of the
training or not: the towers and the language model learn from all of them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonoray.features.format_names import FormatName
from sonoray.metrics.answers import AnswerRecord
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_hashes
from sonoray_jobs.data.closed_questions import closed_questions
from sonoray_jobs.outputs.model_record import (
    Hashes,
    ModelFacts,
    ModelRecord,
    TopicRecord,
    study_of,
)
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.studies import iter_training_studies


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSources:
    """Where a record comes from."""

    dataset: Path
    """Dataset folder that the model was trained on."""
    learned: Sequence[Path]
    """Dataset folders whose training patients it, its towers or its language model learned from."""
    train: TrainConfig
    dtype: FormatName
    near_duplicates: tuple[int, float]
    """Distance and correlation by which images look alike."""
    answers: Path | None
    """`predictions.parquet` of the internal test; None where there was none."""


def collect_record(sources: RecordSources) -> ModelRecord:
    """Read what the record of a model holds.

    Raises:
        DataError: a dataset was ingested before images had perceptual hashes.
    """
    distance, correlation = sources.near_duplicates
    images, num_patients = _learned(sources.learned)
    asked = sources.train.model_copy(update={"site_cue": False})
    topics = closed_topics(iter_training_studies(sources.dataset, asked))
    return ModelRecord(
        facts=ModelFacts(
            dtype=sources.dtype,
            near_duplicate_distance=distance,
            near_duplicate_correlation=correlation,
            num_training_patients=num_patients,
            topics=topics,
        ),
        training_images=images,
        internal_test=[] if sources.answers is None else closed_answers(sources.answers, topics),
    )


def _learned(datasets: Sequence[Path]) -> tuple[Hashes, int]:
    """The hashes of all images of training patients, and how many patients there are."""
    found: dict[str, bytes | None] = {}
    patients: set[str] = set()
    for dataset in dict.fromkeys(datasets):
        hashes = read_hashes(dataset)
        for study in iter_studies(dataset, split="train", complete=False):
            patients.add(study.patient_key)
            found |= {image.image_id: hashes[image.image_id] for image in study.images}
    return found, len(patients)


def closed_topics(studies: Iterable[Study]) -> dict[str, TopicRecord]:
    """The closed topics of training studies that can be asked of others.

    Args:
        studies: as they are trained on, without site cue.
    """
    return {
        name: TopicRecord(
            question=topic.question, options=topic.options, answers=dict(topic.answers)
        )
        for name, topic in closed_questions(studies).items()
    }


def closed_answers(predictions: Path, topics: Iterable[str] | None = None) -> list[AnswerRecord]:
    """The answers of an evaluation on some or all closed topics, from its `predictions.parquet`."""
    import pyarrow.parquet as pq

    columns = ["image_ids", "patient_key", "topic", "truth", "answer", "option_scores"]
    wanted = None if topics is None else set(topics)
    found = []
    for row in pq.read_table(predictions, columns=columns).to_pylist():
        scores = json.loads(row.pop("option_scores"))
        study = study_of(row.pop("image_ids"))
        if scores and (wanted is None or row["topic"] in wanted):
            found.append(
                AnswerRecord(study_id=study, **row, options=tuple(scores), option_scores=scores)
            )
    return found
