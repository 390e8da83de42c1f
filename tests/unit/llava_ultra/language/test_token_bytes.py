"""The bytes of single tokens join to the text of all."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from llava_ultra.language.chat import END, decode_text, encode_text, token_id
from llava_ultra.language.token_bytes import token_bytes
from llava_ultra.testing import tiny_config, tiny_language

TOKENIZER = tiny_language(tiny_config()).tokenizer


@pytest.mark.parametrize("text", ["病灶是良性。", "a b\nc", "é 龘 🙂"])
def test_bytes_join_to_the_text(text: str):
    ids = encode_text(TOKENIZER, text)
    joined = b"".join(token_bytes(TOKENIZER, token) for token in ids)
    assert joined.decode() == decode_text(TOKENIZER, ids)


def test_a_part_of_a_character_is_its_bytes():
    parts = [token_bytes(TOKENIZER, token) for token in encode_text(TOKENIZER, "🙂")]
    assert len(parts) > 1
    assert b"".join(parts) == "🙂".encode()


def test_special_tokens_are_as_they_are_written():
    assert token_bytes(TOKENIZER, token_id(TOKENIZER, END)) == END.encode()


def test_blanks_and_bytes_of_other_tokenizers():
    words = {"\u2581left": 0, "<0xE5>": 1, "<unk>": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert [token_bytes(tokenizer, token) for token in range(2)] == [b" left", b"\xe5"]
