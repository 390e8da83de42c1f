"""Two ways to cut a text into tokens, by character and by word, for metrics that count them.

Both start from the same normal form (NFKC, case folded) and keep a run of Latin letters, digits and
underscores whole, so that `4a`, `3.5` and a placeholder such as `_2ds_` are one token each and an
English text gives its words. Chinese is cut into single characters, or into words by jieba, the
usual segmenter of Chinese report generation; scores of the two levels do not compare.
"""

import logging
import re
import tempfile
import unicodedata
import warnings
from functools import cache
from typing import Any

_RUN = r"[a-z0-9_]+(?:[.-][a-z0-9_]+)*"
_CHARACTERS = re.compile(rf"{_RUN}|\S")
_PIECES = re.compile(rf"({_RUN})|([^\sa-z0-9_]+)")


def fold(text: str) -> str:
    """NFKC and case folded: full-width and half-width, upper and lower case are the same."""
    return unicodedata.normalize("NFKC", text).casefold()


def character_tokens(text: str) -> list[str]:
    """Cut into characters and signs; runs of Latin letters and digits stay whole."""
    return _CHARACTERS.findall(fold(text))


def word_tokens(text: str) -> list[str]:
    """Cut into words: Chinese by jieba, Latin letters and digits as in `character_tokens`."""
    tokens: list[str] = []
    for run, chinese in _PIECES.findall(fold(text)):
        if run:
            tokens.append(run)
        else:
            tokens.extend(_segmenter().cut(chinese))
    return tokens


@cache
def _segmenter() -> Any:  # noqa: ANN401 - a jieba.Tokenizer, which has no types
    """Return jieba over the dictionary in its package: no download, nothing printed.

    It would keep a marshalled copy of its dictionary in the common temporary folder and load
    whatever another user put there; a folder of our own costs half a second for each process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its string escapes, and pkg_resources where it is there
        import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    with tempfile.TemporaryDirectory(prefix="sonoray-") as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer
