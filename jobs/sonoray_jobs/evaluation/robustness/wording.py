"""What people do to a question: slips of the keyboard, a claim beforehand that is wrong.

A change is a function of a turn, a strength in 0..1 and a random generator, and returns the
question. The strength is the share of what may change; an answer is never touched.
"""

from collections.abc import Callable, Mapping

import numpy as np

from sonoray.study.contract import Turn

_MOST_TYPOS = 0.3
"""Share of the characters that have a slip at full strength."""
_CLAIM_ZH, _CLAIM_EN = "外院意见：{claim}。", "Another hospital says: {claim}. "

Wording = Callable[[Turn, float, np.random.Generator], str]


def with_typos(turn: Turn, strength: float, rng: np.random.Generator) -> str:
    """Characters are left out, doubled or swapped with the next one."""
    characters, written = list(turn.question), []
    place = 0
    while place < len(characters):
        here = characters[place]
        if rng.random() >= _MOST_TYPOS * strength:
            written.append(here)
        else:
            slip = int(rng.integers(3))
            if slip == 1:
                written += [here, here]
            elif slip == 2 and place + 1 < len(characters):
                written += [characters[place + 1], here]
                place += 1
        place += 1
    return "".join(written) or turn.question


def with_wrong_claim(turn: Turn, strength: float, rng: np.random.Generator) -> str:
    """In front of a share of the closed questions stands another option as somebody's opinion."""
    others = [option for option in turn.options if option != turn.answer]
    if not others or rng.random() >= strength:
        return turn.question
    form = _CLAIM_EN if turn.question.isascii() else _CLAIM_ZH
    return form.format(claim=others[int(rng.integers(len(others)))]) + turn.question


WORDINGS: Mapping[str, Wording] = {"typos": with_typos, "wrong-claim": with_wrong_claim}
"""By name."""
