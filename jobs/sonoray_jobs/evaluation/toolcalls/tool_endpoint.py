"""A running service, asked with tools by OpenAI's own client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sonoray.errors import ServingError
from sonoray_jobs.service.connection import Connection, ServedModel, plainly

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolReply:
    """An answer that may call."""

    text: str
    message: Mapping[str, Any]
    """As it is sent back."""
    calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and arguments of each call."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Of a closed question: the log-likelihood of each option."""
    tokens: int = 0


class ToolAnswering(Protocol):
    """What is asked: a served model."""

    def answer(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str = "auto",
        max_tokens: int = 1,
        options: Sequence[str] = (),
    ) -> ToolReply:
        """Answer a conversation: in words or by a call, or with one of the options."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolEndpoint:
    """A model of a running service."""

    connection: Connection
    model: ServedModel

    def answer(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str = "auto",
        max_tokens: int = 1,
        options: Sequence[str] = (),
    ) -> ToolReply:
        """See `ToolAnswering`.

        Raises:
            ServingError: the service cannot be reached, refuses or answers nonsense.
        """
        extra: dict[str, Any] = {"sonoray": {"options": list(options)}} if options else {}
        if tools:
            extra |= {
                "tools": [{"type": "function", "function": dict(each)} for each in tools],
                "tool_choice": tool_choice,
            }
        with plainly(self.connection):
            found: Any = self.connection.client.chat.completions.create(
                model=self.model.name,
                messages=list(messages),  # type: ignore[arg-type]
                max_tokens=max_tokens,
                extra_body=extra,
            )
            message = found.choices[0].message
            said = (found.model_extra or {}).get("sonoray") or {}
            closed = said.get("closed") or {"options": ()}
            likely = {each["text"]: each["log_likelihood"] for each in closed["options"]}
            calls = tuple(
                (each.id, each.function.name, each.function.arguments)
                for each in message.tool_calls or ()
            )
            tokens = int(found.usage.total_tokens)
        if said.get("digest") != self.model.digest:
            raise ServingError(
                f"{self.connection.url!r} answers with another model than it lists; ask again"
            )
        if options and (message.content not in options or set(likely) != set(options)):
            raise ServingError(
                f"{self.connection.url!r} chose none of the options: this is no SonoRay service"
            )
        return ToolReply(
            text=message.content or "",
            message={
                key: value
                for key, value in message.model_dump(exclude_none=True).items()
                if key in ("role", "content", "tool_calls")
            },
            calls=calls,
            options=likely if options else {},
            tokens=tokens,
        )
