import pytest

from llava_ultra.export.assistant import load_assistant
from llava_ultra.testing import tiny_image


def test_a_loaded_model_answers_as_another_load_of_it(folder, answer):
    first, second = load_assistant(folder), load_assistant(folder)
    (prompt, text), (_, again) = answer(first), answer(second)
    assert text == again
    assert len(prompt.scores) == 3
    assert sum(prompt.scores) == pytest.approx(1)
    assert prompt.selected == [prompt.scores.index(max(prompt.scores))]


@pytest.mark.parametrize("count", [0, 33])
def test_too_few_or_too_many_images_are_refused(folder, count):
    with pytest.raises(ValueError, match=f"{count} images given"):
        load_assistant(folder).encode([tiny_image()] * count)


def test_an_image_smaller_than_a_patch_is_refused(folder):
    with pytest.raises(ValueError, match="8 x 40 pixels"):
        load_assistant(folder).encode([tiny_image(0, 40, 8)])


def test_a_conversation_longer_than_the_context_is_refused(folder, images):
    assistant = load_assistant(folder)
    long = [{"role": "user", "content": "请描述超声所见。" * 40}]
    with pytest.raises(ValueError, match="do not fit the context"):
        assistant.prepare(assistant.encode(images), long)
