"""One closed question to a model that may call tools first.

The model is offered the tools; what it calls is called, and the result goes back to it as a message
of the role `tool`; and again, until it calls nothing, a call was forced once (`required`), or the
cap is reached. Then it chooses among the options. The call for that answer is kept back from the
start, so that a loop never runs past its cap and never ends without an answer. Where the model
makes no call, the answer is the plain one and the trace says so: a small decoder that has seen no
tool will write no call in its own words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.toolcalls.clinical_tools import ClinicalTool, Outcome, call_tool
from sonoray_jobs.evaluation.toolcalls.tool_endpoint import ToolAnswering, ToolReply
from sonoray_jobs.road.assist_config import AssistConfig
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import user_message

Ended = Literal["no-call", "called", "cap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolStep:
    """One call of a tool, with what it answered."""

    name: str
    arguments: str
    outcome: Outcome
    result: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Assisted:
    """A question, answered."""

    answer: str
    options: dict[str, float]
    """Log-likelihood of each option."""
    ended: Ended
    """`no-call`: none was made; `called`: as often as the model wanted; `cap`: it may have wanted
    more."""
    calls: int
    """Of the service."""
    tokens: int
    steps: tuple[ToolStep, ...]
    said: str
    """The model's own words where it called nothing."""


def check_cap(max_calls: int, is_required: bool) -> None:
    """Refuse a cap that leaves too few calls.

    Args:
        max_calls: the cap.
        is_required: whether a call of a tool has to be made.

    Raises:
        ConfigError: no call is left for the answer, or none for the tool that has to be called.
    """
    if max_calls < 1:
        raise ConfigError(
            f"--max-calls {max_calls} leaves no call; give at least 1 for the answer, and 2 or "
            "more for a tool before it"
        )
    if is_required and max_calls < 2:
        raise ConfigError(
            f"--max-calls {max_calls} leaves no call for a tool, which "
            "assist.tool_choice=required asks for; give at least 2"
        )


def assist(
    endpoint: ToolAnswering,
    question: str,
    options: Sequence[str],
    pictures: Sequence[Picture],
    study: str,
    tools: Sequence[ClinicalTool],
    settings: AssistConfig,
    max_calls: int,
) -> Assisted:
    """Answer a closed question.

    Args:
        endpoint: who is asked.
        question: the question.
        options: its answers.
        pictures: the study.
        study: whose columns the tools know.
        tools: what may be called.
        settings: how.
        max_calls: most calls of the service.

    Raises:
        ConfigError: the cap leaves too few calls.
        ServingError: the service cannot be reached, refuses or answers nonsense.
    """
    check_cap(max_calls, bool(tools) and settings.tool_choice == "required")
    messages: list[dict[str, Any]] = [user_message(question, pictures)]
    steps: list[ToolStep] = []
    ended: Ended = "cap"
    calls = tokens = 0
    said = ""
    while calls < max_calls - 1:  # the answer's own call is kept back
        reply = endpoint.answer(
            messages,
            tools=[tool.spec for tool in tools],
            tool_choice=settings.tool_choice,
            max_tokens=settings.call_tokens,
        )
        calls, tokens = calls + 1, tokens + reply.tokens
        if not reply.calls:
            ended, said = ("called" if steps else "no-call"), reply.text
            break
        messages += _answered(reply, study, tools, steps)
        if settings.tool_choice == "required":
            ended = "called"
            break
    last = endpoint.answer(messages, options=options)
    return Assisted(
        answer=last.text,
        options=dict(last.options),
        ended=ended,
        calls=calls + 1,
        tokens=tokens + last.tokens,
        steps=tuple(steps),
        said=said,
    )


def _answered(
    reply: ToolReply, study: str, tools: Sequence[ClinicalTool], steps: list[ToolStep]
) -> list[dict[str, Any]]:
    """The calls and their results, as messages; each is noted."""
    messages: list[dict[str, Any]] = [dict(reply.message)]
    for call_id, name, arguments in reply.calls:
        result = call_tool(tools, study, name, arguments)
        steps.append(
            ToolStep(name=name, arguments=arguments, outcome=result.outcome, result=result.text)
        )
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result.text})
    return messages
