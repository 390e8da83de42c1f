"""A tiny real model that is asked in this process, as an endpoint would be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from llava_ultra.decoding.likelihood import answer_log_likelihoods
from llava_ultra.decoding.step import read_prompts
from llava_ultra.export.assistant import Assistant, load_assistant
from llava_ultra.language.chat import encode_answer
from llava_ultra.testing import tiny_artifact
from sonoray.images.decode import encode_png
from sonoray_jobs.evaluation.roles.calls import Case
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import ImageUse, Reply
from sonoray_serve.http.testing import random_study
from sonoray_serve.shapes.vector import study_vector


@dataclass(kw_only=True)
class InProcess:
    """Answers as a service does, and says of each answer that it was as long as it may be."""

    assistant: Assistant
    study: Any
    """Encoded."""
    asked: list[str] = field(default_factory=list)
    """What was asked for, one word a call."""

    @property
    def context_length(self) -> int:
        return self.assistant.context_length

    def _prepare(self, prompt: str) -> Any:
        return self.assistant.prepare(self.study, [{"role": "user", "content": prompt}])

    def _reply(self, prompt: Any, answer: str, tokens: int, **options: float) -> Reply:
        return Reply(
            question="",
            answer=answer,
            finish_reason="stop",
            images=tuple(
                ImageUse(name=str(at), score=share, selected=at in prompt.selected)
                for at, share in enumerate(prompt.scores)
            ),
            notice="",
            model="tiny",
            digest="0",
            prompt_tokens=prompt.num_prompt_tokens,
            completion_tokens=tokens,
            options=options,
        )

    def say(
        self, prompt: str, pictures: Sequence[Picture], max_tokens: int, heat: float, seed: int
    ) -> Reply:
        self.asked.append("say")
        read = self._prepare(prompt)
        text = self.assistant.stream(read, max_tokens=max_tokens, temperature=heat, seed=seed)
        most = min(max_tokens, self.context_length - read.num_prompt_tokens)
        return self._reply(read, "".join(text), most)

    def choose(self, prompt: str, pictures: Sequence[Picture], options: Sequence[str]) -> Reply:
        self.asked.append("choose")
        read = self._prepare(prompt)
        mask = torch.ones(read.inputs_embeds.shape[:2], dtype=torch.bool)
        ids = [encode_answer(self.assistant.tokenizer, option) for option in options]
        found = answer_log_likelihoods(
            self.assistant.model,
            read_prompts(self.assistant.model, read.inputs_embeds, mask),
            [0] * len(ids),
            ids,
            max_tokens=4096,
        ).tolist()
        shares = dict(zip(options, found, strict=True))
        best = max(options, key=shares.__getitem__)
        return self._reply(read, best, max(map(len, ids)), **shares)

    def vector(self, pictures: Sequence[Picture]) -> tuple[list[float], int]:
        self.asked.append("vector")
        found, _ = study_vector(self.study.tokens.numpy(), self.study.feature_scores.numpy())
        return found.tolist(), self.study.tokens.shape[0] * self.study.tokens.shape[1]


@pytest.fixture(scope="session")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    folder = tmp_path_factory.mktemp("consulted") / "model"
    tiny_artifact(folder, lively=True)
    return load_assistant(folder)


@pytest.fixture
def service(assistant: Assistant) -> InProcess:
    return InProcess(assistant=assistant, study=assistant.encode(random_study(2)))


@pytest.fixture
def case() -> Case:
    return Case(
        question="良性?",
        options=("良性", "恶性"),
        pictures=(Picture(name="a", data=encode_png(random_study(1)[0])),),
        subject="s pathology",
        patient_key="p0",
    )
