"""Answers and answer likelihoods of studies: the Ray Data actor behind `sonoray evaluate`.

Closed questions are decided by likelihood: the answer is the option that the model finds likeliest,
and its probabilities give the AUC. Every question is also answered freely, because that is what the
service does; `generated` keeps that text.

A prediction row also names what made it: the hash of the prompt's tokens, the hash of how the text
was decoded, all images of the study with the score that the sampler gave each for this question,
which of them the language model saw, and which show the finding (`showing`: 1, 0, -1 where nobody
knows). `shows_finding` tells whether the first that it saw does; -1 also where none of the images
does. `attention_finding` is of another pick: that of the attention score when the true answer is
before it, as it is in training. It tells how good a teacher the feature score has.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling
from llava_ultra.decoding.text import Decoding, answer_log_likelihoods, generate
from sonoray.config.canonical import content_hash
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, Turn
from sonoray_jobs.training.restore import TrainedParts, load_trained

_NO_LIMIT = 10**9

_HASH_LENGTH = 16
"""Hexadecimal digits of the hashes in a prediction."""


class AnswerActor:
    """One model in one process: studies in, predictions out."""

    def __init__(
        self, parts: TrainedParts, stores: Mapping[str, FeatureStore], device: str
    ) -> None:
        self._road = parts.road
        self._model, self._language = load_trained(parts)
        self._model.to(device)
        self._stores = stores
        self._device = device

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer all questions of a batch of study rows; one prediction row per question."""
        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        visual = collate_features([read_features(s, self._stores) for s in studies])
        visual = visual.to(self._device)
        tokens = self._model.fuse(visual.clip, visual.sam)
        feature_scores = self._model.sampler.feature_scores(
            tokens, [study.study_id for study in studies]
        )
        questions = [(at, turn) for at, study in enumerate(studies) for turn in study.turns]
        limit = self._road.model.language.context_length
        asked = collate_texts(
            self._language.tokenizer,
            [(at, turn.question, "") for at, turn in questions],
            max_tokens=limit,
        ).to(self._device)
        prompts = asked.without_answers()
        reading = self._model.read(tokens, visual.image_mask, prompts, feature_scores)
        decoding = Decoding(max_tokens=self._road.evaluate.max_tokens)
        generated = generate(
            self._model,
            self._language.tokenizer,
            reading,
            decoding,
        )
        candidates = [
            (number, option)
            for number, (_, turn) in enumerate(questions)
            for option in turn.options
        ]
        scores: list[dict[str, float]] = [{} for _ in questions]
        if candidates:
            text = collate_texts(
                self._language.tokenizer,
                [
                    (questions[number][0], questions[number][1].question, option)
                    for number, option in candidates
                ],
                max_tokens=limit,
            ).to(self._device)
            likelihoods = answer_log_likelihoods(
                self._model, tokens, visual.image_mask, text, feature_scores
            )
            for (number, option), value in zip(candidates, likelihoods.tolist(), strict=True):
                scores[number][option] = value
        shares = reading.selection.probabilities.cpu().numpy()
        picked = reading.selection.indices.cpu().numpy()
        known = any("shows_finding" in image.labels for s in studies for image in s.images)
        told = self._told_picks(tokens, visual.image_mask, questions) if known else []
        rows = []
        for number, (at, turn) in enumerate(questions):
            study, options = studies[at], scores[number]
            showing = _showing(study)
            best = max(options, key=lambda option: options[option]) if options else None
            rows.append(
                {
                    "study_id": study.study_id,
                    "patient_key": study.patient_key,
                    "topic": turn.topic,
                    "task": turn.task.value,
                    "question": turn.question,
                    "prompt_hash": _token_hash(prompts.ids[number][prompts.mask[number]]),
                    "decoding_hash": content_hash(asdict(decoding))[:_HASH_LENGTH],
                    "truth": turn.answer,
                    "answer": best if best is not None else generated[number],
                    "generated": generated[number],
                    "option_scores": json.dumps(options, ensure_ascii=False),
                    "image_ids": [image.image_id for image in study.images],
                    "image_scores": shares[number, : len(study.images)].tolist(),
                    "selected": picked[number][picked[number] >= 0].tolist(),
                    "showing": showing,
                    "shows_finding": _of_pick(showing, int(picked[number, 0])),
                    "attention_finding": _of_pick(showing, told[number]) if told else -1,
                }
            )
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _told_picks(
        self, tokens: torch.Tensor, image_mask: torch.Tensor, questions: list[tuple[int, Turn]]
    ) -> list[int]:
        """The image that the attention score picks for each question and its true answer.

        Empty where the model has no attention score. The text never meets the decoder, so that its
        context is no limit.
        """
        if not isinstance(self._model.config.sampling, AdaptiveSampling):
            return []
        text = collate_texts(
            self._language.tokenizer,
            [(at, turn.question, turn.answer) for at, turn in questions],
            max_tokens=_NO_LIMIT,
        ).to(self._device)
        scores = self._model.sampler.attention_scores(
            tokens,
            image_mask,
            text.study_index,
            self._model.embed(text.ids),
            text.mask,
        )
        picks: list[int] = scores.argmax(dim=1).tolist()
        return picks


def _token_hash(ids: torch.Tensor) -> str:
    """Hash of a prompt's token ids: equal prompts of equal tokenizers have the same."""
    data = ids.cpu().numpy().astype("<i8").tobytes()
    return hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]


def read_features(study: Study, stores: Mapping[str, FeatureStore]) -> StudyFeatures:
    """Read the features of a study's images, in their order, from the stores by tower."""
    ids = [image.image_id for image in study.images]
    return StudyFeatures(clip=stores["clip"].read(ids), sam=stores["sam"].read(ids))


def _showing(study: Study) -> list[int]:
    """For each image 1 or 0, whether it shows the finding; -1 where nobody knows."""
    return [int(image.labels.get("shows_finding", -1)) for image in study.images]


def _of_pick(showing: list[int], index: int) -> int:
    """1 or 0: whether the picked image shows the finding; -1 where no image is known to."""
    return int(showing[index] == 1) if 1 in showing else -1


def pack_studies(studies: list[Study]) -> list[dict[str, Any]]:
    """Rows for Ray Data: a study as one JSON text, which keeps ragged lists out of the blocks."""
    return [{"study": json.dumps(study.to_row(), ensure_ascii=False)} for study in studies]
