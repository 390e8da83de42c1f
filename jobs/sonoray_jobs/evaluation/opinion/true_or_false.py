"""True or false, asked of a model about the answers of studies: the Ray Data actor.

Three ways. After Machine Vision Therapy (arXiv 2312.02546), *exemplars*: three pictures stand in
the prompt, of a study of which the statement is right, of one of which it is wrong, and of the
study that is asked about; the conversation says so of the first two and asks about the third. A
prompt that is longer than the model's context is not put, and has no score.
*statement*: the study's own pictures and the statement. *options*: the study's own pictures and
the question as the model learned it, without a statement.

The score of a statement is the log-odds of yes against no; of `options` the log-likelihood of each
option. Pictures are picked by the sampler's feature score, as many as it keeps; of an exemplar and
of the study beside it the best one. The decoder reads them in this order.

Axes: S studies with exemplars, K images, P tokens, D width, R prompts, M pictures of a prompt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llava_ultra.batch import collate_features, collate_texts
from llava_ultra.config import KeepAllSampling, images_kept
from llava_ultra.connector.pick import Sampler
from llava_ultra.decoding.likelihood import answer_log_likelihoods, batches_by_tokens
from llava_ultra.decoding.step import read_prompts
from llava_ultra.language.chat import as_messages, encode_answer, encode_chat
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from sonoray.study.contract import Study, Turn
from sonoray_jobs.evaluation.opinion.labels import find_turn
from sonoray_jobs.evaluation.opinion.prompts import Prompt, read_prompt, wording, yes_no
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A prompt as the decoder reads it."""

    pictures: torch.Tensor
    """(M, P, D)."""
    texts: tuple[str, ...]
    answers: Sequence[str]
    ids: Sequence[Sequence[int]]
    """Tokens of each answer."""
    num_tokens: int
    """Of pictures, texts and the longest answer."""


class OpinionActor:
    """One model in one process: studies and prompts in, scores out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
    ) -> None:
        """Load the model.

        Args:
            load: returns it.
            settings: how many tokens are read together.
            features: where the images' features come from.
            device: where the model runs.
        """
        self._model, self._language = load()
        self._model.fix()
        self._model.to(device)
        self._picks = self._model.sampler  # what is picked here stands in the prompt as it is
        width = self._model.feature_sizes.width
        self._model.sampler = Sampler(KeepAllSampling(), width=width).eval()
        self._max_tokens = settings.batch_tokens
        self._features = FeatureReader(features)
        self._device = device

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return per study its id and `scores`: JSON, a mapping from option to score a prompt."""
        given = [json.loads(row) for row in batch["asked"]]
        studies = [Study.from_row(each["study"]) for each in given]
        asked = [[read_prompt(prompt) for prompt in each["asked"]] for each in given]
        known = {study.study_id: study for study in studies}
        for prompt in (prompt for each in asked for prompt in each):
            known |= {exemplar.study_id: exemplar for exemplar in prompt.exemplars}
        best = self._best(list(known.values()))
        rows = [
            (study, _turn(study, each["topic"]), prompt)
            for study, each, prompts in zip(studies, given, asked, strict=True)
            for prompt in prompts
        ]
        scores = self._ask(rows, best)
        of_study: list[list[Mapping[str, float]]] = []
        start = 0
        for prompts in asked:
            of_study.append(scores[start : start + len(prompts)])
            start += len(prompts)
        return {
            "study_id": [study.study_id for study in studies],
            "scores": [json.dumps(each, ensure_ascii=False) for each in of_study],
        }

    def _best(self, studies: Sequence[Study]) -> dict[str, torch.Tensor]:
        """By study id its pictures, the best first: (M, P, D)."""
        features = self._features.read_studies([study.images for study in studies])
        visual = collate_features(features).to(self._device)
        tokens = self._model.fuse_studies(visual)
        names = [study.study_id for study in studies]
        scores = self._picks.feature_scores(tokens, names)
        found = {}
        for name, study, own, pictures in zip(names, studies, scores, tokens, strict=True):
            count = len(study.images)
            kept = images_kept(self._model.config.sampling, count)
            order = own[:count].argsort(descending=True, stable=True)[:kept]
            found[name] = pictures[order]
        return found

    def _ask(
        self, rows: Sequence[tuple[Study, Turn, Prompt]], best: Mapping[str, torch.Tensor]
    ) -> list[Mapping[str, float]]:
        """Score each prompt, in groups that the decoder reads together."""
        calls = [self._call(study, turn, prompt, best) for study, turn, prompt in rows]
        limit = self._model.config.language.context_length
        found: list[Mapping[str, float]] = [{} for _ in rows]
        fitting = [place for place, call in enumerate(calls) if call.num_tokens <= limit]
        lengths = [calls[place].num_tokens for place in fitting]
        for group in batches_by_tokens(lengths, self._max_tokens):
            places = [fitting[number] for number in group]
            scores = self._score([calls[place] for place in places])
            for place, values in zip(places, scores, strict=True):
                prompt = rows[place][2]
                found[place] = (
                    dict(zip(calls[place].answers, values, strict=True))
                    if prompt.way == "options"
                    else {prompt.option: values[0] - values[1]}
                )
        return found

    def _call(
        self, study: Study, turn: Turn, prompt: Prompt, best: Mapping[str, torch.Tensor]
    ) -> "_Call":
        tokenizer = self._language.tokenizer
        pictures = best[study.study_id]
        if prompt.exemplars:
            others = [best[exemplar.study_id][0] for exemplar in prompt.exemplars]
            pictures = torch.stack([*others, pictures[0]])
        texts = wording(turn.question, prompt)
        answers = turn.options if prompt.way == "options" else yes_no(turn.question)
        ids = tuple(encode_answer(tokenizer, answer) for answer in answers)
        words, _ = encode_chat(tokenizer, as_messages(texts))
        seen = len(pictures) * self._model.config.num_tokens
        return _Call(
            pictures=pictures,
            texts=texts,
            answers=answers,
            ids=ids,
            num_tokens=seen + len(words) + max(map(len, ids)),
        )

    def _score(self, calls: Sequence["_Call"]) -> list[list[float]]:
        """Log-likelihood of each answer of prompts that are read together."""
        most = max(len(call.pictures) for call in calls)
        shape = calls[0].pictures.shape[1:]
        tokens = calls[0].pictures.new_zeros(len(calls), most, *shape)
        mask = torch.zeros(len(calls), most, dtype=torch.bool)
        for place, call in enumerate(calls):
            tokens[place, : len(call.pictures)] = call.pictures
            mask[place, : len(call.pictures)] = True
        text = collate_texts(
            self._language.tokenizer,
            [(place, call.texts, "") for place, call in enumerate(calls)],
            max_tokens=self._model.config.language.context_length,
        ).without_answers()
        reading = self._model.read(tokens, mask, text.to(self._device))
        context = read_prompts(self._model, reading.embeds, reading.mask)
        pairs = [(row, own) for row, call in enumerate(calls) for own in call.ids]
        values = iter(
            answer_log_likelihoods(
                self._model,
                context,
                [row for row, _ in pairs],
                [own for _, own in pairs],
                max_tokens=self._max_tokens,
            ).tolist()
        )
        return [[next(values) for _ in call.ids] for call in calls]


def _turn(study: Study, topic: str) -> Turn:
    turn = find_turn(study, topic)
    assert turn is not None  # whoever asks has looked
    return turn
