import subprocess
import sys

import pytest

from sonoray.metrics.tokens import character_tokens, word_tokens

REPORT = "肝脏约3.5×１０毫米，BI-RADS ４A类 _2DS_ 规则。"


def test_characters_are_single_and_latin_runs_stay_whole():
    assert character_tokens(REPORT) == [
        *"肝脏约", "3.5", "×", "10", *"毫米,", "bi-rads", "4a", "类", "_2ds_", *"规则。",
    ]  # fmt: skip


def test_words_are_jiebas_and_latin_runs_stay_whole():
    assert word_tokens(REPORT) == [
        "肝脏", "约", "3.5", "×", "10", "毫米", ",", "bi-rads", "4a", "类", "_2ds_", "规则", "。",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [character_tokens, word_tokens])
def test_english_is_cut_at_blanks_and_signs(cut):
    assert cut("No lesion, size 8.0 mm") == ["no", "lesion", ",", "size", "8.0", "mm"]
    assert cut(" \n") == []


def test_the_segmenter_prints_nothing_and_leaves_nothing_behind(tmp_path):
    """jieba would announce its dictionary on stderr and leave a cache in the temporary folder."""
    code = "from sonoray.metrics.tokens import word_tokens; assert word_tokens('低回声结节')"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(tmp_path)},
    )
    assert (child.stdout, child.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
