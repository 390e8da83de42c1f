"""An answer's id belongs to the key that got the answer, on every replica."""

import pytest

from sonoray_serve.clinic.answer_ids import find_model, new_answer_id

DIGEST, KEY = "ab" * 32, "cd" * 32


@pytest.mark.parametrize("key", [KEY, ""])
@pytest.mark.parametrize("prefix", ["chatcmpl", "cmpl"])
def test_its_own_key_finds_the_model_and_no_other_does(key: str, prefix: str):
    name = new_answer_id(prefix, DIGEST, key)
    assert name.startswith(f"{prefix}-")
    assert find_model(name, key) == DIGEST[:12]
    assert find_model(name, "ef" * 32) is None


def test_ids_differ_and_none_can_be_made_from_another():
    name = new_answer_id("chatcmpl", DIGEST, KEY)
    assert new_answer_id("chatcmpl", DIGEST, KEY) != name
    for place in range(len(name)):
        changed = name[:place] + ("0" if name[place] != "0" else "1") + name[place + 1 :]
        assert find_model(changed, KEY) is None


@pytest.mark.parametrize("name", ["", "chatcmpl-1", "x" * 80, "é" * 60])
def test_what_is_no_id_is_none(name: str):
    assert find_model(name, KEY) is None
