"""Answers and answer likelihoods of studies: the Ray Data actor behind `sonoray evaluate`.

Closed questions are decided by likelihood: the answer is the option that the model finds likeliest,
and its probabilities give the AUC. Every question is also answered freely, because that is what the
service does; `generated` keeps that text. A question that needs those before it is asked with them
and their true answers (`sonoray.study.prompt`). The decoder reads a question with its images once:
the options are branches of that reading, and the free answer goes on from it. Questions are read
together up to `evaluate.batch_tokens` of tokens, not by the number of studies.

A prediction row also names what made it: the hash of the prompt's tokens, the hash of how the text
was decoded, all images of the study with the score that the sampler gave each for this question,
which of them the language model saw, and which show the finding (`showing`: 1, 0, -1 where nobody
knows). `attention_pick` is another pick: that of the attention score when the true answer is before
it, as it is in training, which tells how good a teacher the feature score has; -1 where there is no
such score, or no image of the study is known to show the finding. Whether a pick is right,
`sonoray.metrics.picks` says.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from llava_ultra.batch import StudyFeatures, TextBatch, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling, images_kept
from llava_ultra.decoding.likelihood import answer_log_likelihoods, batches_by_tokens
from llava_ultra.decoding.step import Decoding, read_prompts
from llava_ultra.decoding.text import generate
from llava_ultra.language.chat import encode_answer
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.products import check_precision
from sonoray.config.canonical import content_hash
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.prompt import dialogue
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig

_NO_LIMIT = 10**9

_HASH_LENGTH = 16
"""Hexadecimal digits of the hashes in a prediction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fused:
    """What all questions about B studies share."""

    tokens: torch.Tensor
    """(B, K, P, D)."""
    image_mask: torch.Tensor
    """(B, K) bool."""
    feature_scores: torch.Tensor
    """(B, K)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reply:
    """What the model says to one question."""

    text: str
    """The generated answer."""
    is_cut: bool
    """Whether it was not at its end yet."""
    likelihoods: list[float]
    """Log-likelihood of each option."""
    shares: list[float]
    """(K,) score of each image."""
    picked: list[int]
    """(M,) positions of the images it saw, best first; -1 for an empty slot."""


class AnswerActor:
    """One model in one process: studies in, predictions out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
        *,
        answers_freely: bool = True,
    ) -> None:
        """Load the model.

        Args:
            load: returns a trained or an exported model and its language side.
            settings: how long an answer may be, and how many questions are read together.
            features: where the images' features come from.
            device: where the model runs.
            answers_freely: whether it also writes an answer to every question.
        """
        self._settings = settings
        self._answers_freely = answers_freely
        self._model, self._language = load()
        check_precision(self._model.precision, torch.device(device).type, "evaluate.precision")
        self._model.fix()
        self._model.to(device)
        self._features = FeatureReader(features)
        self._device = device
        self._decoding = Decoding(max_tokens=settings.max_tokens)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer all questions of a batch of study rows; one prediction row per question."""
        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        features = self._features.read_studies([study.images for study in studies])
        rows = [row for rows in self.answer(studies, features) for row in rows]
        return {key: [row[key] for row in rows] for key in rows[0]}

    @torch.no_grad()
    def answer(
        self, studies: Sequence[Study], features: Sequence[StudyFeatures]
    ) -> list[list[dict[str, Any]]]:
        """Answer the questions of some studies, given the features of their images.

        Returns:
            For each study its prediction rows, in the order of its questions.
        """
        visual = collate_features(features).to(self._device)
        tokens = self._model.fuse(visual.clip, visual.sam)
        feature_scores = self._model.sampler.feature_scores(
            tokens, [study.study_id for study in studies]
        )
        fused = _Fused(tokens=tokens, image_mask=visual.image_mask, feature_scores=feature_scores)
        questions = [
            (at, turn, dialogue(study.turns, number))
            for at, study in enumerate(studies)
            for number, turn in enumerate(study.turns)
            if turn.task is not Task.CONTEXT
        ]
        prompts = collate_texts(
            self._language.tokenizer,
            [(at, texts, "") for at, _, texts in questions],
            max_tokens=self._model.config.language.context_length,
        ).without_answers()
        options = [
            [encode_answer(self._language.tokenizer, option) for option in turn.options]
            for _, turn, _ in questions
        ]
        known = any(1 in showing_of(study) for study in studies)
        told = self._told_picks(fused, questions) if known else []
        found: dict[int, _Reply] = {}
        lengths = self._lengths(prompts, [studies[at] for at, _, _ in questions], options)
        for group in batches_by_tokens(lengths, self._settings.batch_tokens):
            text = prompts.select(group).to(self._device)
            replies = self._answer(fused, text, [options[number] for number in group])
            found |= zip(group, replies, strict=True)
        rows: list[list[dict[str, Any]]] = [[] for _ in studies]
        for number, (at, turn, _) in enumerate(questions):
            study, reply = studies[at], found[number]
            scores = dict(zip(turn.options, reply.likelihoods, strict=True))
            showing = showing_of(study)
            best = max(scores, key=lambda option: scores[option]) if scores else None
            rows[at].append(
                {
                    "study_id": study.study_id,
                    "patient_key": study.patient_key,
                    "topic": turn.topic,
                    "task": turn.task.value,
                    "question": turn.question,
                    "prompt_hash": _token_hash(prompts.ids[number][prompts.mask[number]]),
                    "decoding_hash": content_hash(asdict(self._decoding))[:_HASH_LENGTH],
                    "truth": turn.answer,
                    "answer": best if best is not None else reply.text,
                    "generated": reply.text,
                    "is_cut": reply.is_cut,
                    "option_scores": json.dumps(scores, ensure_ascii=False),
                    "image_ids": [image.image_id for image in study.images],
                    "image_scores": reply.shares[: len(study.images)],
                    "selected": [place for place in reply.picked if place >= 0],
                    "showing": showing,
                    "attention_pick": told[number] if told and 1 in showing else -1,
                }
            )
        return rows

    def _lengths(
        self,
        prompts: TextBatch,
        studies: Sequence[Study],
        options: Sequence[Sequence[Sequence[int]]],
    ) -> list[int]:
        """Tokens that each question takes: images, prompt, and the longest answer it may get."""
        model = self._model.config
        return [
            images_kept(model.sampling, len(study.images)) * model.num_tokens
            + length
            + max([self._decoding.max_tokens, *map(len, own)])
            for length, study, own in zip(
                prompts.mask.sum(dim=1).tolist(), studies, options, strict=True
            )
        ]

    def _answer(
        self, fused: "_Fused", text: TextBatch, options: Sequence[Sequence[Sequence[int]]]
    ) -> list["_Reply"]:
        """Answer N questions that the decoder reads together, and score the options of each."""
        reading = self._model.read(fused.tokens, fused.image_mask, text, fused.feature_scores)
        context = read_prompts(self._model, reading.embeds, reading.mask)
        candidates = [(row, ids) for row, own in enumerate(options) for ids in own]
        likelihoods: list[list[float]] = [[] for _ in options]
        if candidates:
            scored = answer_log_likelihoods(
                self._model,
                context,
                [row for row, _ in candidates],
                [ids for _, ids in candidates],
                max_tokens=self._settings.batch_tokens,
            )
            for (row, _), value in zip(candidates, scored.tolist(), strict=True):
                likelihoods[row].append(value)
        answers = (
            generate(self._model, self._language.tokenizer, context, self._decoding)
            if self._answers_freely
            else [None] * len(options)
        )
        shares = reading.selection.probabilities.tolist()
        picked = reading.selection.indices.tolist()
        return [
            _Reply(
                text=answer.text if answer else "",
                is_cut=answer is not None and answer.is_cut,
                likelihoods=likelihoods[row],
                shares=shares[row],
                picked=picked[row],
            )
            for row, answer in enumerate(answers)
        ]

    def _told_picks(
        self, fused: "_Fused", questions: Sequence[tuple[int, Turn, Sequence[str]]]
    ) -> list[int]:
        """The image that the attention score picks for each question and its true answer.

        Empty where the model has no attention score. The text never meets the decoder, so that its
        context is no limit.
        """
        if not isinstance(self._model.config.sampling, AdaptiveSampling):
            return []
        text = collate_texts(
            self._language.tokenizer,
            [(at, texts, turn.answer) for at, turn, texts in questions],
            max_tokens=_NO_LIMIT,
        )
        seen = fused.tokens[0, :, :, 0].numel()  # every text token attends to all of a study
        lengths = [length + seen for length in text.mask.sum(dim=1).tolist()]
        picks: dict[int, int] = {}
        for group in batches_by_tokens(lengths, self._settings.batch_tokens):
            part = text.select(group).to(self._device)
            scores = self._model.sampler.attention_scores(
                fused.tokens,
                fused.image_mask,
                part.study_index,
                self._model.embed(part.ids),
                part.mask,
            )
            picks |= zip(group, scores.argmax(dim=1).tolist(), strict=True)
        return [picks[number] for number in range(len(questions))]


def _token_hash(ids: torch.Tensor) -> str:
    """Hash of a prompt's token ids: equal prompts of equal tokenizers have the same."""
    data = ids.cpu().numpy().astype("<i8").tobytes()
    return hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]


def showing_of(study: Study) -> list[int]:
    """For each image 1 or 0, whether it shows the finding; -1 where nobody knows."""
    return [int(image.labels.get("shows_finding", -1)) for image in study.images]


def pack_studies(studies: list[Study]) -> list[dict[str, Any]]:
    """Rows for Ray Data: a study as one JSON text, which keeps ragged lists out of the blocks."""
    return [{"study": json.dumps(study.to_row(), ensure_ascii=False)} for study in studies]
