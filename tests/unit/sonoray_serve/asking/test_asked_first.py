"""What the service asks before a report, and what the report then follows."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest

from sonoray.images.decode import Pixels
from sonoray.study.prompt import ProtocolQuestion, ReportProtocol
from sonoray_serve.asking.asked_first import is_report
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Failed,
    Finished,
    ModelCard,
    Piece,
    Sampling,
    Started,
)
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits

FINDING = ProtocolQuestion(topic="finding", question="有病灶吗？", options=("有", "无"))
MARGIN = ProtocolQuestion(
    topic="margin",
    question="边缘如何？",
    options=("光滑", "毛刺"),
    not_after={"finding": ("无",)},
)
PROTOCOL = ReportProtocol(questions=(FINDING, MARGIN), reports=("请写报告。",))


class Scripted:
    """Vision and engine in one: answers by question, and notes what it was asked."""

    def __init__(self, **answers: str | Problem) -> None:
        self.answers = {"有病灶吗？": "有", "边缘如何？": "光滑", "请写报告。": "报告", **answers}
        self.asked: list[tuple[str, ...]] = []

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy:
        empty = np.zeros((0,), np.float32)
        return EncodedStudy(tokens=empty, feature_scores=empty, digest="d")

    async def ready(self) -> str:
        return "d"

    async def generate(
        self, study: EncodedStudy, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(tuple(message["content"] for message in messages))
        answer = self.answers[messages[-1]["content"].rpartition("甲状腺。")[2]]
        if isinstance(answer, Problem):
            yield Failed(problem=answer)
            return
        yield Started(num_prompt_tokens=1, scores=(1.0,), selected=(0,), digest="d")
        for letter in answer:
            yield Piece(text=letter)
        yield Finished(reason="stop", num_tokens=len(answer))


def ask(model: Scripted, question: str, **changes):
    card = ModelCard(
        notice="n",
        digest="d",
        max_images=4,
        context_length=256,
        site_cue=False,
        width=8,
        protocol=PROTOCOL,
    )
    chat = Chat(vision=model, engine=model, models={"llava-ultra": card}, limits=Limits())
    body = json.dumps(chat_body(random_study(1), question, **changes)).encode()

    async def whole():
        async def read():
            return body

        answer = await chat.begin(read(), Deadline.after(60.0))
        return await answer.complete()

    return asyncio.run(whole())


@pytest.mark.parametrize("cue", ["", "检查部位：甲状腺。"])
def test_a_report_follows_the_models_own_closed_answers(cue):
    model = Scripted()
    answer = ask(model, f"{cue}请写报告。")
    told = (f"{cue}有病灶吗？", "有", f"{cue}边缘如何？", "光滑")
    assert sorted(model.asked[:2]) == sorted([told[:1], told[2:3]])
    assert model.asked[2] == (*told, f"{cue}请写报告。")
    assert answer.choices[0].message.content == "报告"
    asked = [(each.question, each.answer) for each in answer.sonoray.asked_first]
    assert asked == [told[:2], told[2:]]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"有病灶吗？": "无"}, ("有病灶吗？", "无")),  # the margin of nothing is not told
        ({"边缘如何？": "不清"}, ("有病灶吗？", "有")),  # none of the options
    ],
)
def test_what_does_not_apply_or_is_no_option_is_left_out(answers, told):
    model = Scripted(**answers)
    ask(model, "请写报告。")
    assert model.asked[-1] == (*told, "请写报告。")


def test_other_questions_and_later_ones_are_asked_as_they_are():
    for messages in (
        [{"role": "user", "content": "边缘如何？"}],
        [
            {"role": "user", "content": "边缘如何？"},
            {"role": "assistant", "content": "光滑"},
            {"role": "user", "content": "请写报告。"},
        ],
    ):
        assert not is_report(messages, PROTOCOL)
    lone = [{"role": "system", "content": "s"}, {"role": "user", "content": "请写报告。"}]
    assert is_report(lone, PROTOCOL)
    assert not is_report(lone, ReportProtocol())
    model = Scripted()
    assert ask(model, "边缘如何？").sonoray.asked_first == []
    assert model.asked == [("边缘如何？",)]


def test_a_refusal_of_the_engine_is_the_requests():
    with pytest.raises(ApiError) as failed:
        ask(Scripted(**{"边缘如何？": Problem.BUSY}), "请写报告。")
    assert failed.value.problem is Problem.BUSY
