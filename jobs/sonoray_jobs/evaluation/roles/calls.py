"""One question's calls of the service, each within the budget and written down.

What is written down says everything but times, so that equal seeds give equal traces. It holds what
roles said of a patient and stays in the workspace.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from sonoray.config.canonical import content_hash
from sonoray.errors import ServingError
from sonoray_jobs.evaluation.roles.budget import Budget
from sonoray_jobs.service.connection import Connection, ServedModel
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import Reply, put, study_vector

_SEED_DIGITS = 15
"""Hexadecimal digits of a seed: below 2**63, as the service takes it."""


_CHAR_BYTES = 4
"""Most bytes of a character in UTF-8."""


class Answering(Protocol):
    """What is asked: a served model."""

    @property
    def context_length(self) -> int:
        """Most tokens of a call."""

    def say(
        self, prompt: str, pictures: Sequence[Picture], max_tokens: int, heat: float, seed: int
    ) -> Reply:
        """Answer in words."""

    def choose(self, prompt: str, pictures: Sequence[Picture], options: Sequence[str]) -> Reply:
        """Choose among options."""

    def vector(self, pictures: Sequence[Picture]) -> tuple[list[float], int]:
        """A study's vector, and the tokens that it cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A model of a running service."""

    connection: Connection
    model: ServedModel

    @property
    def context_length(self) -> int:
        """Most tokens of a call."""
        return self.model.context_length

    def say(
        self, prompt: str, pictures: Sequence[Picture], max_tokens: int, heat: float, seed: int
    ) -> Reply:
        """Answer in words, drawn at a temperature with a seed."""
        return put(
            self.connection,
            prompt,
            pictures,
            model=self.model.name,
            max_tokens=max_tokens,
            temperature=heat,
            seed=seed,
        )

    def choose(self, prompt: str, pictures: Sequence[Picture], options: Sequence[str]) -> Reply:
        """Choose among options by their likelihood.

        Raises:
            ServingError: the answer is none of them, or lacks a likelihood, or is the student's.
        """
        extra = {"options": list(options)}
        reply = put(self.connection, prompt, pictures, model=self.model.name, extra=extra)
        if reply.answered_by != "model":
            raise ServingError(
                f"{self.connection.url!r} has its student answer for the model; serve without "
                "serve.student_budget to compare"
            )
        if reply.answer not in options or set(reply.options) != set(options):
            raise ServingError(
                f"{self.connection.url!r} answers a question of {len(options)} options with none "
                "of them; this is no SonoRay service"
            )
        return reply

    def vector(self, pictures: Sequence[Picture]) -> tuple[list[float], int]:
        """A study's vector, and the tokens that it cost."""
        return study_vector(self.connection, pictures, model=self.model.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A question about a study."""

    question: str
    options: tuple[str, ...]
    """None of an open question."""
    pictures: tuple[Picture, ...]
    subject: str
    """What tells it from others: seeds follow from it."""
    patient_key: str = ""
    """Whose it is, so that the patient's own studies are not searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One call."""

    call: int
    round: int
    """0 before the first one."""
    role: str
    does: str
    """`choose`, `look`, `state`, `summarise`, `vote` or `answer`."""
    prompt: str
    prompt_sha256: str
    answer: str
    seed: int | None
    tokens: int
    total_tokens: int
    """Of all calls up to it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(kw_only=True, slots=True)
class Calls:
    """All calls of one question."""

    service: Answering
    case: Case
    budget: Budget
    max_tokens: int
    """Of a statement."""
    heat: float
    """Temperature."""
    seed: int
    steps: list[Step] = field(default_factory=list)
    reserved_chars: int | None = None
    """Characters of the prompt of a last call that has to stay possible; None where there is no
    such one."""
    known: Reply | None = None
    """The cheapest prompt so far, by which others are bounded."""

    def say(self, role: str, does: str, prompt: str, at: int) -> str | None:
        """What a role says; None where the budget does not hold the call.

        Args:
            role: who is asked.
            does: what for.
            prompt: what it is told.
            at: the round.
        """
        if not self._begin(self._bound(len(prompt.encode()), self.max_tokens)):
            return None
        drawn = content_hash([self.seed, self.case.subject, self.budget.calls])
        seed = int(drawn[:_SEED_DIGITS], 16)
        reply = self.service.say(prompt, self.case.pictures, self.max_tokens, self.heat, seed)
        self._write(role, does, prompt, at, reply, seed)
        return reply.answer.strip()

    def choose(
        self, role: str, does: str, prompt: str, at: int, options: Sequence[str]
    ) -> Reply | None:
        """What a role chooses; None where the budget does not hold the call."""
        if not self._begin(self._bound(len(prompt.encode()), _longest(options))):
            return None
        reply = self.service.choose(prompt, self.case.pictures, options)
        self._write(role, does, prompt, at, reply, None)
        return reply

    def look(self, role: str, at: int) -> list[float] | None:
        """The study's vector; None where the budget does not hold the call.

        Each image costs at most what the known prompt did, which had one at least.
        """
        bound = 0
        if self.known is not None:
            bound = self.known.prompt_tokens * max(1, len(self.known.images))
        elif self.budget.max_tokens is not None:
            return None  # nobody knows how much it may cost
        if not self._begin(bound):
            return None
        vector, tokens = self.service.vector(self.case.pictures)
        self._charge(tokens)
        self._add(role, "look", "", at, "", None, tokens)
        return vector

    def _begin(self, bound: int) -> bool:
        """Count a call where it and the reserved one fit."""
        reserve = []
        if self.reserved_chars is not None:
            longest = _longest(self.case.options) if self.case.options else self.max_tokens
            reserve = [self._bound(_CHAR_BYTES * self.reserved_chars, longest)]
        if not self.budget.fits(bound, *reserve):
            return False
        self.budget.begin()
        return True

    def _bound(self, prompt_bytes: int, max_tokens: int) -> int:
        """The most tokens that a call may cost."""
        context = self.service.context_length
        if self.known is None:
            return context
        return min(context, self.known.prompt_tokens + prompt_bytes + max_tokens)

    def _charge(self, tokens: int) -> None:
        self.budget.spend(tokens)
        if self.budget.is_passed:
            raise ServingError(
                f"the service counts {tokens} tokens for one call, more than it can have had; "
                "this is no SonoRay service"
            )

    def _write(
        self, role: str, does: str, prompt: str, at: int, reply: Reply, seed: int | None
    ) -> None:
        tokens = reply.prompt_tokens + reply.completion_tokens
        self._charge(tokens)
        if self.known is None or reply.prompt_tokens < self.known.prompt_tokens:
            self.known = reply
        self._add(role, does, prompt, at, reply.answer, seed, tokens)

    def _add(
        self,
        role: str,
        does: str,
        prompt: str,
        at: int,
        answer: str,
        seed: int | None,
        tokens: int,
    ) -> None:
        self.steps.append(
            Step(
                call=self.budget.calls,
                round=at,
                role=role,
                does=does,
                prompt=prompt,
                prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
                answer=answer,
                seed=seed,
                tokens=tokens,
                total_tokens=self.budget.tokens,
            )
        )


def _longest(options: Sequence[str]) -> int:
    """Most tokens of an option, with its end."""
    return max(len(option.encode()) for option in options) + 1
