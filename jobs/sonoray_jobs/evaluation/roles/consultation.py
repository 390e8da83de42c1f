"""The loop: roles of one served model consult on a question, vote, and one of them answers.

MAM (arXiv 2506.19835): a general practitioner chooses the specialists, every role gives an
assessment, a summary is made, the roles vote on it, and another round follows or the answer. Ours:
the practitioner's choice is a closed question about fields of medicine, so that it always is one;
the assistant is told the reports of the training studies that look most alike; a vote is a closed
question; a director sums up and answers. A call for the answer is kept back from the beginning, so
that a budget ends the discussion and never the answer; with one call the director answers as the
model would alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sonoray_jobs.evaluation.roles.calls import Calls
from sonoray_jobs.evaluation.roles.memory import Memory
from sonoray_jobs.evaluation.roles.wordings import (
    ASSISTANT,
    DIRECTOR,
    PRACTITIONER,
    RADIOLOGIST,
    SPECIALIST,
    WORDINGS,
    Wordings,
    discussion,
    language_of,
    worded,
)
from sonoray_jobs.road.consult_config import ConsultConfig
from sonoray_jobs.service.service_client import Reply

Ended = Literal["agreed", "rounds", "budget"]
"""Why no further round came: most agreed, it was the last one, or the budget holds no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a consultation comes to."""

    answer: str
    options: dict[str, float]
    """Log-likelihood of each option, of a closed question."""
    ended: Ended
    rounds: int
    """That began."""
    team: tuple[str, ...]
    """Fields of the specialists."""
    votes: tuple[tuple[int, int], ...]
    """Of each round: who agreed, who voted."""


@dataclass(kw_only=True, slots=True)
class _Talk:
    """What is going on."""

    calls: Calls
    words: Wordings
    settings: ConsultConfig
    memory: Memory | None
    team: tuple[str, ...] = ()
    summary: str = ""
    similar: str | None = None
    """What the assistant is told; None until it has looked."""
    votes: list[tuple[int, int]] = field(default_factory=list)

    def told(self, statements: Sequence[tuple[str, str]]) -> str:
        """What others said, in front of a question."""
        said = discussion(self.words, list(statements), self.settings.discussion_chars)
        return self.words.told.format(told=said) if said else ""

    def before(self) -> list[tuple[str, str]]:
        """The summary of the round before; nothing in the first one."""
        return [(self.words.names[DIRECTOR], self.summary)] if self.summary else []

    def prompt(self, form: str, role: str, told: str = "") -> str:
        """What a role is told."""
        return worded(form, self.calls.case.question, who=self.words.names[role], told=told)


def consult(
    calls: Calls, settings: ConsultConfig, roles: Sequence[str], memory: Memory | None
) -> Verdict:
    """Have roles consult on a question.

    Args:
        calls: the question, and what may be spent.
        settings: how.
        roles: some of `wordings.ROLES`.
        memory: what the assistant searches; None where it takes no part.

    Raises:
        ServingError: the service cannot be reached, refuses or answers nonsense.
    """
    words = WORDINGS[language_of(calls.case.question)]
    form = len(words.answer) + len(words.told)
    calls.reserved_chars = len(calls.case.question) + settings.discussion_chars + form
    talk = _Talk(calls=calls, words=words, settings=settings, memory=memory)
    ended: Ended = "rounds"
    number = 0
    if not _choose_team(talk, roles):
        ended = "budget"
    statements: list[tuple[str, str]] = []
    while ended == "rounds" and number < settings.rounds:
        number += 1
        said, is_whole = _discuss(talk, roles, number)
        statements = said or statements
        most = _agree(talk, roles, number) if is_whole else None
        if most is None:
            ended = "budget"
        elif most:
            ended = "agreed"
    reply = _answer(talk, statements, number)
    return Verdict(
        answer=reply if isinstance(reply, str) else reply.answer,
        options={} if isinstance(reply, str) else dict(reply.options),
        ended=ended,
        rounds=number,
        team=talk.team,
        votes=tuple(talk.votes),
    )


def _choose_team(talk: _Talk, roles: Sequence[str]) -> bool:
    """Have the practitioner choose the specialists; whether the budget held it."""
    fields = talk.settings.specialties
    if SPECIALIST not in roles:
        return True
    if PRACTITIONER not in roles or len(fields) <= talk.settings.team:
        talk.team = fields[: talk.settings.team]
        return True
    names = {talk.words.names[each]: each for each in fields}
    prompt = talk.prompt(talk.words.choose, PRACTITIONER)
    reply = talk.calls.choose(PRACTITIONER, "choose", prompt, 0, tuple(names))
    if reply is None:
        return False
    likeliest = sorted(names, key=lambda name: -reply.options[name])
    talk.team = tuple(names[name] for name in likeliest[: talk.settings.team])
    return True


def _discuss(talk: _Talk, roles: Sequence[str], number: int) -> tuple[list[tuple[str, str]], bool]:
    """One round of statements and its summary; and whether the budget held all of it."""
    said: list[tuple[str, str]] = []
    before = talk.told(talk.before())
    speakers = [
        *((RADIOLOGIST,) if RADIOLOGIST in roles else ()),
        *talk.team,
    ]
    for role in speakers:
        text = talk.calls.say(role, "state", talk.prompt(talk.words.state, role, before), number)
        if text is None:
            return said, False
        said.append((talk.words.names[role], text))
    if ASSISTANT in roles:
        text = _assist(talk, number)
        if text is None:
            return said, False
        said.append((talk.words.names[ASSISTANT], text))
    prompt = talk.prompt(talk.words.summarise, DIRECTOR, talk.told(said))
    summary = talk.calls.say(DIRECTOR, "summarise", prompt, number)
    if summary is None:
        return said, False
    talk.summary = summary
    return said, True


def _assist(talk: _Talk, number: int) -> str | None:
    """What the assistant says of the studies that look most alike; it looks once."""
    assert talk.memory is not None  # it takes part
    if talk.similar is None:
        vector = talk.calls.look(ASSISTANT, number)
        if vector is None:
            return None
        found = talk.memory.alike(vector, talk.calls.case.patient_key, talk.settings.exemplars)
        talk.similar = "".join(found)[: talk.settings.discussion_chars]
    prompt = talk.prompt(talk.words.similar, ASSISTANT, talk.similar)
    return talk.calls.say(ASSISTANT, "state", prompt, number)


def _agree(talk: _Talk, roles: Sequence[str], number: int) -> bool | None:
    """Have every role vote on the summary; whether more than half agree, None where not all could.

    Nobody to vote is no agreement.
    """
    told = talk.told(talk.before())
    others = [each for each in (PRACTITIONER, RADIOLOGIST, ASSISTANT) if each in roles]
    yes = voted = 0
    for role in (*others, *talk.team):
        prompt = talk.prompt(talk.words.vote, role, told)
        reply = talk.calls.choose(role, "vote", prompt, number, talk.words.agree)
        if reply is None:
            return None
        voted += 1
        yes += reply.answer == talk.words.agree[0]
    talk.votes.append((yes, voted))
    return 2 * yes > voted


def _answer(talk: _Talk, statements: Sequence[tuple[str, str]], number: int) -> Reply | str:
    """The director's answer; after the summary, or what was said where there is none."""
    calls = talk.calls
    calls.reserved_chars = None  # this is it
    told = talk.told(talk.before() or statements)
    prompt = talk.prompt(talk.words.answer, DIRECTOR, told)
    ask: Callable[[], Reply | str | None] = (
        (lambda: calls.choose(DIRECTOR, "answer", prompt, number, calls.case.options))
        if calls.case.options
        else (lambda: calls.say(DIRECTOR, "answer", prompt, number))
    )
    reply = ask()
    assert reply is not None  # it was kept back
    return reply
