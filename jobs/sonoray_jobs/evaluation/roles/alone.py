"""The same model without roles: asked once, or several times with the most frequent answer.

Self-consistency (X. Wang et al., arXiv 2203.11171) draws answers at a temperature and takes the
commonest. A drawn text counts for an option where it is one, or names one alone; what names none is
no vote. Of equally common options the first drawn one is the answer, and where no text can be read
there is none.
"""

from collections import Counter
from collections.abc import Sequence

from sonoray_jobs.evaluation.roles.calls import Calls

ALONE = "alone"
"""The role of who has none."""


def answer_once(calls: Calls) -> str:
    """The likeliest option, in one call."""
    case = calls.case
    reply = calls.choose(ALONE, "answer", case.question, 0, case.options)
    assert reply is not None  # one call always fits
    return reply.answer


def vote(calls: Calls, num_calls: int) -> tuple[str, int]:
    """The commonest of drawn answers, empty where none can be read; and how many cannot.

    Args:
        calls: the closed question.
        num_calls: answers to draw, as far as the budget holds them.
    """
    drawn = []
    for number in range(1, num_calls + 1):
        text = calls.say(ALONE, "answer", calls.case.question, number)
        if text is None:
            break
        drawn.append(read_option(text, calls.case.options))
    votes = Counter(option for option in drawn if option is not None)
    answer = votes.most_common(1)[0][0] if votes else ""
    return answer, len(drawn) - votes.total()


def read_option(text: str, options: Sequence[str]) -> str | None:
    """The option that a text is, or that it alone names; None where it is none.

    An option that is part of another one that is named does not count (`规则` in `不规则`).
    """
    if text in options:
        return text
    named = [option for option in options if option in text]
    whole = [
        option
        for option in named
        if not any(option in other and option != other for other in named)
    ]
    return whole[0] if len(whole) == 1 else None
