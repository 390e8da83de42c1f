import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.language.chat import (
    decode_text,
    encode_text,
    token_id,
)
from llava_ultra.language.tokenizer import PLACEHOLDERS, train_tokenizer
from llava_ultra.testing import TEXTS, tiny_config, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
TOKENIZER = LANGUAGE.tokenizer


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_the_tokenizer(text):
    assert decode_text(TOKENIZER, encode_text(TOKENIZER, text)) == text


def test_the_same_texts_give_the_same_tokenizer():
    again = train_tokenizer(TEXTS, CONFIG.language.vocab_size)
    assert again.get_vocab() == TOKENIZER.get_vocab()


def test_chinese_characters_are_never_merged():
    assert len(encode_text(TOKENIZER, "左侧甲状腺见一低回声结节")) == 12


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_placeholders_stay_whole(placeholder):
    ids = TOKENIZER.encode(f"大小{placeholder}毫米", add_special_tokens=False)
    assert token_id(TOKENIZER, placeholder) in ids


def test_placeholders_stay_whole_wherever_they_stand():
    text = "结节大小约_2DS_, 体积_3DS_; 厚径_SCM__SMM_位于_Loc_与_LocR_之间, 共_r_个, _x_"
    ids = encode_text(TOKENIZER, text)
    wanted = [token_id(TOKENIZER, placeholder) for placeholder in PLACEHOLDERS]
    assert [token for token in ids if token in wanted] == wanted
    assert decode_text(TOKENIZER, ids) == text
