"""Classes that a model never learns from, so that it can be asked whether it knows them unseen.

A class is a value of a study label. Its studies are left out of all learning, whole; and of the
other studies the turns are left out whose topic is the label, since their question names the class
(`病灶是良性还是恶性？`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sonoray.errors import DataError
from sonoray.study.contract import Study

HoldOut = Mapping[str, Sequence[str]]
"""By label: the values that are held out."""


def is_held_out(study: Study, hold_out: HoldOut) -> bool:
    """Whether a study is of a class that is held out."""
    return any(study.labels.get(label) in values for label, values in hold_out.items())


def without_topics(study: Study, hold_out: HoldOut) -> Study:
    """The study without the turns that ask for what is held out.

    Raises:
        DataError: no turn is left.
    """
    if not hold_out:
        return study
    turns = tuple(turn for turn in study.turns if turn.topic not in hold_out)
    if study.turns and not turns:
        raise DataError(
            f"study {study.study_id!r} of dataset {study.dataset!r} has turns of "
            f"{', '.join(sorted(hold_out))} alone, which train.hold_out leaves out; ingest reports "
            "or other questions, or hold out another label"
        )
    return study if len(turns) == len(study.turns) else replace(study, turns=turns)


def names_of_held_out(studies: Iterable[Study], hold_out: HoldOut) -> set[str]:
    """Words for the classes that are held out: the values, and what their studies answer to it."""
    words = {value for values in hold_out.values() for value in values}
    for study in studies:
        if is_held_out(study, hold_out):
            words |= {turn.answer for turn in study.turns if turn.topic in hold_out}
    return words


def check_unnamed(studies: Iterable[Study], words: Iterable[str]) -> int:
    """Make sure that no text of these studies names a class that is held out.

    Looked at are questions, answers and the captions of images: all that is ever learned from.

    Args:
        studies: as they are learned from.
        words: for the classes.

    Returns:
        How many studies were looked at.

    Raises:
        DataError: a text names one.
    """
    wanted = sorted(word for word in set(words) if word)
    number = 0
    for study in studies:
        number += 1
        texts = [
            (turn.topic or "a turn", text)
            for turn in study.turns
            for text in (turn.question, turn.answer)
        ]
        texts += [("a caption", image.labels.get("caption", "")) for image in study.images]
        for place, text in texts:
            if named := [word for word in wanted if _holds(text, word)]:
                raise DataError(
                    f"train.hold_out leaves {named[0]!r} out, and a training text names it "
                    f"({place} of study {study.study_id!r}); hold out the label that this topic "
                    "asks for too, or reword the source"
                )
    return number


def _holds(text: str, word: str) -> bool:
    """Whether a text holds a word: whole where it is of Latin letters, anywhere else as it is."""
    if not word.isascii():
        return word in text
    place = text.lower().find(word.lower())
    while place >= 0:
        before, after = text[place - 1 : place], text[place + len(word) : place + len(word) + 1]
        if not before.isalnum() and not after.isalnum():
            return True
        place = text.lower().find(word.lower(), place + 1)
    return False
