"""Whether what was read of a picture holds a header's own words: its names, numbers, places.

The last look at pictures whose scan area is unknown (`deidentify`). A recogniser errs in single
characters, so a word of five may differ in one, of ten in two; which it may not where the word is
shorter, since then it would be found in everything.
"""

import re
from collections.abc import Iterator

from sonoray.study.identifiers import Identifiers

_SHORTEST = {"latin": 3, "number": 4, "wide": 2}
"""Characters of a word that is looked for: of a name in letters, a number, a name in others."""
_PER_ERROR = 5
"""Characters of a word for each that may differ."""


def find_header_words(text: str, known: Identifiers) -> bool:
    """Whether one of the words stands in the text, in whatever case and with whatever between."""
    plain = _plain(text)
    return any(_occurs(word, plain) for word in _words(known))


def _words(known: Identifiers) -> Iterator[str]:
    for name in (*known.names, *known.places):
        for part in map(_plain, re.split(r"[\^=\s,]+", name)):
            if len(part) >= _SHORTEST["latin" if part.isascii() else "wide"]:
                yield part
    yield from (part for part in map(_plain, known.numbers) if len(part) >= _SHORTEST["number"])


def _plain(text: str) -> str:
    """Letters and digits alone, in one case."""
    return "".join(each for each in text.casefold() if each.isalnum())


def _occurs(word: str, text: str) -> bool:
    allowed = len(word) // _PER_ERROR
    return any(
        sum(one != other for one, other in zip(word, text[start:], strict=False)) <= allowed
        for start in range(len(text) - len(word) + 1)
    )
