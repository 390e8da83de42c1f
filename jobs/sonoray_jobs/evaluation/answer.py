"""Answers and answer likelihoods of studies: the Ray Data actor behind `sonoray evaluate`.

Closed questions are decided by likelihood: the answer is the option that the model finds likeliest,
and its probabilities give the AUC. Every question is also answered freely, because that is what the
service does; `generated` keeps that text. A question that needs those before it is asked with them
and their true answers (`sonoray.study.prompt`); a report that follows the closed questions
(`sonoray.study.prompt`) waits for the model's own answers to them. The decoder reads a question
with its images once: the options are branches of that reading, and the free answer goes on from it.
Questions are read together up to `evaluate.batch_tokens` of tokens, not by the number of studies.

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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol, conversation, dialogue
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
    prompt_hash: str = ""
    """Of the prompt's tokens."""
    told_pick: int = -1
    """The image that the attention score picks with the true answer before it; -1 for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """One turn of one study."""

    at: int
    """Which study of the batch."""
    number: int
    """Which turn of it."""
    turn: Turn
    texts: tuple[str, ...]
    """What was said before, and the question."""

    @property
    def place(self) -> tuple[int, int]:
        """Its place among the batch's questions."""
        return self.at, self.number


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The studies of a batch, read once."""

    fused: _Fused
    studies: Sequence[Study]
    told_picks: bool
    """Whether it is known of some image that it shows the finding."""


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
        protocol: ReportProtocol = NO_PROTOCOL,
    ) -> None:
        """Load the model.

        Args:
            load: returns a trained or an exported model and its language side.
            settings: how long an answer may be, and how many questions are read together.
            features: where the images' features come from.
            device: where the model runs.
            answers_freely: whether it also writes an answer to every question.
            protocol: what is asked before a report, of studies that have its questions.
        """
        self._protocol = protocol
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
        tokens = self._model.fuse_studies(visual)
        feature_scores = self._model.sampler.feature_scores(
            tokens, [study.study_id for study in studies]
        )
        fused = _Fused(tokens=tokens, image_mask=visual.image_mask, feature_scores=feature_scores)
        asked = _Asked(fused=fused, studies=studies, told_picks=_any_shows(studies))
        alone, reports = _rounds(studies, self._protocol)
        found = self._reply(asked, alone)
        said = _closed_answers(alone, found)
        follow = [
            replace(
                each,
                texts=conversation(
                    studies[each.at].turns, each.number, self._protocol, said[each.at]
                ),
            )
            for each in reports
        ]
        found |= self._reply(asked, follow)
        decoding_hash = content_hash(asdict(self._decoding))
        rows: list[list[dict[str, Any]]] = [[] for _ in studies]
        for each in sorted([*alone, *follow], key=lambda each: each.place):
            if each.turn.task is not Task.CONTEXT:
                row = _to_row(studies[each.at], each, found[each.place], decoding_hash)
                rows[each.at].append(row)
        return rows

    def _reply(
        self, asked: "_Asked", questions: Sequence["_Question"]
    ) -> dict[tuple[int, int], "_Reply"]:
        """Answer questions, in groups that the decoder reads together; by their places."""
        if not questions:
            return {}
        prompts = collate_texts(
            self._language.tokenizer,
            [(each.at, each.texts, "") for each in questions],
            max_tokens=self._model.config.language.context_length,
        ).without_answers()
        options = [
            [encode_answer(self._language.tokenizer, option) for option in each.turn.options]
            for each in questions
        ]
        told = self._told_picks(asked.fused, questions) if asked.told_picks else []
        found: dict[tuple[int, int], _Reply] = {}
        lengths = self._lengths(prompts, [asked.studies[each.at] for each in questions], options)
        for group in batches_by_tokens(lengths, self._settings.batch_tokens):
            text = prompts.select(group).to(self._device)
            replies = self._answer(asked.fused, text, [options[number] for number in group])
            for number, reply in zip(group, replies, strict=True):
                found[questions[number].place] = replace(
                    reply,
                    prompt_hash=_token_hash(prompts.ids[number][prompts.mask[number]]),
                    told_pick=told[number] if told else -1,
                )
        return found

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

    def _told_picks(self, fused: "_Fused", questions: Sequence["_Question"]) -> list[int]:
        """The image that the attention score picks for each question and its true answer.

        Empty where the model has no attention score. The text never meets the decoder, so that its
        context is no limit.
        """
        if not isinstance(self._model.config.sampling, AdaptiveSampling):
            return []
        text = collate_texts(
            self._language.tokenizer,
            [(each.at, each.texts, each.turn.answer) for each in questions],
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


def _rounds(
    studies: Sequence[Study], protocol: ReportProtocol
) -> tuple[list[_Question], list[_Question]]:
    """What can be asked at once, and the reports that wait for answers of it."""
    before = {question.topic for question in protocol.questions}
    alone, reports = [], []
    for at, study in enumerate(studies):
        for number, turn in enumerate(study.turns):
            texts = dialogue(study.turns, number)
            question = _Question(at=at, number=number, turn=turn, texts=texts)
            if before and turn.task is Task.REPORT:
                reports.append(question)
            elif turn.task is not Task.CONTEXT or (turn.topic in before and turn.options):
                alone.append(question)
    return alone, reports


def _closed_answers(
    questions: Sequence[_Question], replies: Mapping[tuple[int, int], _Reply]
) -> defaultdict[int, dict[str, str]]:
    """By study and topic: the option that the model finds likeliest."""
    said: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for each in questions:
        if each.turn.options:
            said[each.at][each.turn.topic] = _answer_of(each.turn, replies[each.place])
    return said


def _answer_of(turn: Turn, reply: _Reply) -> str:
    """The likeliest option, or the generated text where there are none."""
    if not turn.options:
        return reply.text
    return max(zip(reply.likelihoods, turn.options, strict=True), key=lambda pair: pair[0])[1]


def _to_row(study: Study, asked: _Question, reply: _Reply, decoding_hash: str) -> dict[str, Any]:
    """The prediction of a question."""
    turn, showing = asked.turn, showing_of(study)
    scores = dict(zip(turn.options, reply.likelihoods, strict=True))
    return {
        "study_id": study.study_id,
        "patient_key": study.patient_key,
        "topic": turn.topic,
        "task": turn.task.value,
        "question": turn.question,
        "prompt_hash": reply.prompt_hash,
        "decoding_hash": decoding_hash[:_HASH_LENGTH],
        "truth": turn.answer,
        "answer": _answer_of(turn, reply),
        "generated": reply.text,
        "is_cut": reply.is_cut,
        "option_scores": json.dumps(scores, ensure_ascii=False),
        "image_ids": [image.image_id for image in study.images],
        "image_scores": reply.shares[: len(study.images)],
        "selected": [place for place in reply.picked if place >= 0],
        "showing": showing,
        "attention_pick": reply.told_pick if 1 in showing else -1,
    }


def _token_hash(ids: torch.Tensor) -> str:
    """Hash of a prompt's token ids: equal prompts of equal tokenizers have the same."""
    data = ids.cpu().numpy().astype("<i8").tobytes()
    return hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]


def _any_shows(studies: Sequence[Study]) -> bool:
    return any(1 in showing_of(study) for study in studies)


def showing_of(study: Study) -> list[int]:
    """For each image 1 or 0, whether it shows the finding; -1 where nobody knows."""
    return [int(image.labels.get("shows_finding", -1)) for image in study.images]


def pack_studies(studies: list[Study]) -> list[dict[str, Any]]:
    """Rows for Ray Data: a study as one JSON text, which keeps ragged lists out of the blocks."""
    return [{"study": json.dumps(study.to_row(), ensure_ascii=False)} for study in studies]
