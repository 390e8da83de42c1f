"""What a model says to closed questions, for a student to learn: the Ray Data actor and its file.

A row is a study: its images as the student sees them (mean and maximum of each channel over an
image's tokens, of both towers, all images of the study), the model's log-likelihoods of the options
of each closed question, the sampler's scores of the images, and the decoder's state in front of the
answer. `model_s` and `pooling_s` are CPU time a study of the batch that it was in: answering
without what a student has no use for, and pooling. Neither counts reading features.

Axes: K images, F pooled channels, Q closed questions, D width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.decoding.prompt_states import question_states
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.student.network import pool_tokens
from sonoray.study.contract import Study, Task
from sonoray.study.prompt import dialogue
from sonoray_jobs.evaluation.answer import AnswerActor
from sonoray_jobs.towers.feature_source import FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig

FILE = "taught.parquet"


class TeacherActor(AnswerActor):
    """A model in one process: studies in, what it says of each out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
    ) -> None:
        """Load the model; arguments as of `AnswerActor`."""
        super().__init__(load, settings, features, device, answers_freely=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return one row per study."""
        studies = [unmarked(Study.from_row(json.loads(row))) for row in batch["study"]]
        features = self._features.read_studies([study.images for study in studies])
        begun = process_time()
        answered = self.answer(studies, features)
        model_s = process_time() - begun
        begun = process_time()
        images = [pool_study(each) for each in features]
        pooling_s = process_time() - begun
        states = self.states(studies, features)
        return {
            "study_id": [study.study_id for study in studies],
            "num_images": [len(each) for each in images],
            "images": [each.tobytes() for each in images],
            "questions": [
                json.dumps([_question(row) for row in rows], ensure_ascii=False)
                for rows in answered
            ],
            "states": [each.tobytes() for each in states],
            "model_s": [model_s / len(studies)] * len(studies),
            "pooling_s": [pooling_s / len(studies)] * len(studies),
        }

    @torch.no_grad()
    def states(
        self, studies: Sequence[Study], features: Sequence[StudyFeatures]
    ) -> list[np.ndarray]:
        """For each study (Q, D) float32, the decoder's last state in front of each answer."""
        asked = [
            (at, dialogue(study.turns, number))
            for at, study in enumerate(studies)
            for number, turn in enumerate(study.turns)
            if turn.task is not Task.CONTEXT
        ]
        visual = collate_features(features).to(self._device)
        tokens = self._model.fuse_studies(visual)
        scores = self._model.sampler.feature_scores(tokens, [study.study_id for study in studies])
        text = collate_texts(
            self._language.tokenizer,
            [(at, texts, "") for at, texts in asked],
            max_tokens=self._model.config.language.context_length,
        ).without_answers()
        states = question_states(
            self._model,
            tokens,
            visual.image_mask,
            text,
            scores,
            layers=(-1,),
            max_tokens=self._settings.batch_tokens,
        )
        of_study: list[list[np.ndarray]] = [[] for _ in studies]
        for (at, _), state in zip(asked, states[:, 0].numpy(), strict=True):
            of_study[at].append(state)
        return [np.stack(each) for each in of_study]


def unmarked(study: Study) -> Study:
    """The study without what is known of single images: no pick is compared with it here."""
    return replace(study, images=tuple(replace(image, labels={}) for image in study.images))


def pool_study(features: StudyFeatures) -> np.ndarray:
    """A study's images as a student sees them: (K, F) float32."""
    return np.concatenate([pool_tokens(each) for each in features.towers.values()], axis=1)


def _question(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "topic": row["topic"],
        "question": row["question"],
        "truth": row["truth"],
        "answer": row["answer"],
        "option_scores": json.loads(row["option_scores"]),
        "image_scores": list(row["image_scores"]),
    }


def write_taught(
    folder: Path, studies: Sequence[Study], rows: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """Write what the actors returned, in any order, in the order of the studies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {row["study_id"]: row for row in rows}
    told = [
        {**found[study.study_id], "patient_key": study.patient_key, "split": study.split}
        for study in studies
    ]
    pq.write_table(pa.Table.from_pylist(told), folder / FILE)
    counts = {
        split: sum(each["split"] == split for each in told)
        for split in ("train", "validation", "test")
    }
    return {f"num_{split}": count for split, count in counts.items() if count}


def read_taught(folder: Path) -> list[dict[str, Any]]:
    """Read them back, with arrays in place of bytes and questions in place of their text."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(folder / FILE).to_pylist()
    for row in rows:
        row["questions"] = json.loads(row["questions"])
        row["images"] = np.frombuffer(row["images"], np.float32).reshape(row["num_images"], -1)
        states = np.frombuffer(row["states"], np.float32)
        row["states"] = states.reshape(len(row["questions"]), -1)
    return rows
