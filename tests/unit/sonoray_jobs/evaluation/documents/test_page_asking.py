"""What of a page stands in front of a question, and that no error repeats it."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sonoray.errors import DataError
from sonoray_jobs.evaluation.documents.page_asking import PageAsker, blocks_of, ranked

LINES = [
    ("姓名：李四", "性别：女"),
    ("左叶前后径", "21.5", "mm"),
    ("超声所见：",),
    ("甲状腺左叶见低回声病灶，",),
    ("边缘光滑。",),
    ("声明：完。",),
]


def test_a_heading_stands_with_its_text():
    assert blocks_of(LINES) == [
        "姓名：李四 性别：女",
        "左叶前后径 21.5 mm",
        "超声所见：甲状腺左叶见低回声病灶，边缘光滑。",
        "声明：完。",
    ]


def test_the_lines_most_like_the_question_come_first():
    blocks = blocks_of(LINES)
    assert ranked(blocks, "左叶前后径的测值是多少？")[0] == 1
    assert ranked(blocks, "低回声病灶的边缘如何？")[0] == 2
    assert ranked(blocks, "？") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("lines", "question", "options"),
    [
        ([("腺",)], "甲？", ()),
        ([("甲",)], "腺？", ()),
        ([("甲",)], "甲？", ("甲", "腺")),
    ],
)
def test_a_character_without_token_is_not_repeated(lines, question, options):
    known = ("[UNK]", "<s>", "</s>", "<user>", "<assistant>", "甲", "？", "\n")
    words = Tokenizer(models.WordLevel({sign: at for at, sign in enumerate(known)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>"],
    )  # fmt: skip
    model = SimpleNamespace(tokenizer=tokenizer, context_length=64, width=4)
    asker = PageAsker(model, max_tokens=8, passage_chars=120)
    with pytest.raises(DataError, match="no token for a character of a page") as caught:
        asker.over_text(lines, question, options)
    assert "腺" not in str(caught.value)
