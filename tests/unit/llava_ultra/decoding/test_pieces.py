"""Pieces join to the text of all tokens, and none holds half a character or half a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.decoding.pieces import Pieces, find_stop
from llava_ultra.language.chat import encode_text
from llava_ultra.testing import tiny_config, tiny_language

TOKENIZER = tiny_language(tiny_config()).tokenizer
TEXT = "左侧乳腺见低回声结节,大小约 12 mm × 8 mm;边界尚清。"


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=TEXT, min_size=1, max_size=40), st.integers(1, 5))
def test_pieces_join_to_the_whole_however_seldom_they_are_taken(text: str, every: int):
    pieces = Pieces(TOKENIZER)
    taken = []
    for number, token in enumerate(encode_text(TOKENIZER, text)):
        assert not pieces.add(token)
        if number % every == 0:
            taken.append(pieces.take())
    assert not any("\ufffd" in piece for piece in taken)
    assert "".join([*taken, pieces.rest()]) == text


@pytest.mark.parametrize("stop", ["回声", "12 mm ×", "。"])
def test_a_stop_string_is_never_shown_in_part(stop: str):
    pieces = Pieces(TOKENIZER, ("never", stop))
    taken = ""
    for token in encode_text(TOKENIZER, TEXT):
        ended = pieces.add(token)
        if ended:
            break
        taken += pieces.take()
        assert TEXT[: TEXT.index(stop)].startswith(taken)
    assert ended
    assert taken + pieces.rest() == TEXT[: TEXT.index(stop)]


def test_what_might_have_become_a_stop_string_is_shown_at_the_end():
    pieces = Pieces(TOKENIZER, ("结节病",))
    for token in encode_text(TOKENIZER, "见结节"):
        pieces.add(token)
    assert pieces.take() == "见"
    assert pieces.rest() == "结节"
    assert pieces.rest() == ""


def test_the_first_stop_string_counts():
    assert find_stop("abcabc", ["c", "b"]) == 1
    assert find_stop("abc", []) is None
    assert find_stop("abc", ["x"]) is None
