"""An answer's text while its tokens still come.

A piece is held back while it ends inside a character (byte-level tokens may split one) or inside
what may become a stop string, so pieces always join to the text of all tokens. Tokens are turned
into text when someone asks for it, and after each token only where a stop string has to be found.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from llava_ultra.language.chat import decode_text


class Pieces:
    """The text of one answer, piece by piece."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = ()) -> None:
        """Args: `stop`, strings that end the answer and are not part of it."""
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._end: str | None = None
        self._num_sent = 0

    def add(self, token: int) -> bool:
        """Take a further token; tells whether a stop string has ended the answer."""
        self._ids.append(token)
        if self._stop:
            text = decode_text(self._tokenizer, self._ids)
            cut = find_stop(text, self._stop)
            if cut is not None:
                self._end = text[:cut]
        return self._end is not None

    def take(self) -> str:
        """What is certain by now and was not taken yet."""
        text = decode_text(self._tokenizer, self._ids)
        return self._since(text[: len(text) - _held_back(text, self._stop)])

    def rest(self) -> str:
        """What was not taken yet, at the answer's end."""
        return self._since(
            decode_text(self._tokenizer, self._ids) if self._end is None else self._end
        )

    def _since(self, text: str) -> str:
        piece = text[self._num_sent :]
        self._num_sent = max(self._num_sent, len(text))
        return piece


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins; None where there is none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=None)


def _held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change."""
    whole = text.rstrip("\ufffd")
    starts = [size for word in stop for size in range(1, len(word)) if whole.endswith(word[:size])]
    return len(text) - len(whole) + max(starts, default=0)
