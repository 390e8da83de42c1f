"""Calls and results of tools in a conversation, as the decoder takes it.

Results stand in front of the question that they were called for, because the decoder was taught
that the question is last; the call itself is not repeated, and the site stays first.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from sonoray.study.prompt import split_site
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.api import AssistantMessage, Message, ToolMessage
from sonoray_serve.shapes.tools import Tools

_RESULT = {"zh": "工具{name}：{content}。", "en": "Tool {name}: {content}. "}


def told_messages(
    messages: Sequence[Message], texts: Sequence[str], tools: Tools | None
) -> list[dict[str, str]]:
    """The conversation as the decoder takes it: system, user and assistant alone.

    Args:
        messages: of a request.
        texts: of each its text.
        tools: what it offers.

    Raises:
        ApiError: 400; a result is of no call, a call has no result, or results stand before any
            question.
    """
    told: list[dict[str, str]] = []
    results: list[str] = []
    open_calls: dict[str, str] = {}
    for number, (message, text) in enumerate(zip(messages, texts, strict=True)):
        if isinstance(message, ToolMessage):
            name = open_calls.pop(message.tool_call_id, None)
            if name is None or not told:
                raise ApiError(Problem.NO_SUCH_CALL, f"messages[{number}].tool_call_id")
            form = _RESULT[_language(_last_question(told, number))]
            results.append(form.format(name=name, content=" ".join(text.split())))
            continue
        if open_calls:
            raise ApiError(Problem.CALL_WITHOUT_RESULT, f"messages[{number}]")
        if isinstance(message, AssistantMessage) and message.tool_calls:
            _last_question(told, number)
            open_calls = {each.id: each.function.name for each in message.tool_calls}
            continue
        _put(told, results)
        results = []
        role = "system" if message.role == "developer" else message.role
        told.append({"role": role, "content": text})
    if open_calls:
        raise ApiError(Problem.CALL_WITHOUT_RESULT, f"messages[{len(messages) - 1}]")
    _put(told, results)
    if tools is not None:
        question = next(each["content"] for each in reversed(told) if each["role"] == "user")
        told.insert(0, {"role": "system", "content": tools.offer(_language(question))})
    return told


def _last_question(told: Sequence[Mapping[str, str]], number: int) -> str:
    if not told or told[-1]["role"] != "user":
        raise ApiError(Problem.CALL_WITHOUT_QUESTION, f"messages[{number}]")
    return told[-1]["content"]


def _put(told: list[dict[str, str]], results: Sequence[str]) -> None:
    """Put results in front of the question that they were called for; the site stays first."""
    if results:
        site, question = split_site(told[-1]["content"])
        told[-1] = {**told[-1], "content": site + "".join(results) + question}


def _language(question: str) -> Literal["zh", "en"]:
    return "en" if question.isascii() else "zh"
