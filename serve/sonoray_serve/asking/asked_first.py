"""What the service asks its model before a report: the closed questions, which the report follows.

A model trained with `train.closed_first` writes a report as the last turn of a conversation in
which the closed questions were answered (`sonoray.study.prompt`). Where a client asks for a
report, in words of the training and with nothing said before, the service asks them first, all at
once: each is a few tokens behind images that are read already. What it said is told with the
report, so that nobody has to guess what the report rests on. An answer that is none of the options
is left out.
"""

import asyncio
from collections.abc import Mapping, Sequence

from sonoray.study.prompt import ProtocolQuestion, ReportProtocol, split_site
from sonoray_serve.asking.studies import AskedStudy
from sonoray_serve.messages import Failed, Finished, Piece, Sampling
from sonoray_serve.problems import ApiError

_MAX_TOKENS = 64
"""Of an answer; options are a few tokens long."""

Messages = Sequence[dict[str, str]]


def is_report(messages: Messages, protocol: ReportProtocol) -> bool:
    """Whether a conversation is a lone question for a report, after system messages at most."""
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if not protocol.questions or roles != ["user"]:
        return False
    _, question = split_site(messages[-1]["content"])
    return protocol.asks_report(question)


async def ask_first(
    study: AskedStudy,
    messages: Messages,
    protocol: ReportProtocol,
    timeout_s: float,
) -> list[tuple[str, str]]:
    """Ask the closed questions of a protocol about a study.

    Args:
        study: the study, and who answers.
        messages: a lone question for a report.
        protocol: of the model.
        timeout_s: what is left of the request's time.

    Returns:
        Questions and answers that stand in front of the report.

    Raises:
        ApiError: the engine refuses one.
    """
    cue, _ = split_site(messages[-1]["content"])

    async def answer(question: ProtocolQuestion) -> str:
        asked = [*messages[:-1], {"role": "user", "content": cue + question.question}]
        return await _text(study, asked, timeout_s)

    texts = await asyncio.gather(*map(answer, protocol.questions))
    said: Mapping[str, str] = {
        question.topic: text.strip()
        for question, text in zip(protocol.questions, texts, strict=True)
        if text.strip() in question.options
    }
    return [(cue + each.question, said[each.topic]) for each in protocol.told(said)]


def with_answers(
    messages: Messages, asked: Sequence[tuple[str, str]]
) -> tuple[dict[str, str], ...]:
    """The conversation with what was asked first in front of its last message."""
    told = [
        {"role": role, "content": text}
        for pair in asked
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return (*messages[:-1], *told, messages[-1])


async def _text(study: AskedStudy, messages: Messages, timeout_s: float) -> str:
    sampling = Sampling(
        max_tokens=_MAX_TOKENS,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        stop=(),
        timeout_s=timeout_s,
        stream=False,
    )
    events = study.generate(messages, sampling)
    text = ""
    try:
        async for event in events:
            if isinstance(event, Failed):
                raise ApiError(event.problem, "messages", event.limit, event.detail)
            if isinstance(event, Piece):
                text += event.text
            if isinstance(event, Finished):
                break
    finally:
        await events.aclose()
    return text
