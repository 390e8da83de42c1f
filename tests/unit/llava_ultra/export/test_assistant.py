import pytest
import torch

from llava_ultra.export.assistant import load_assistant
from llava_ultra.parameters import products
from llava_ultra.parameters.products import cpu_has_bfloat16
from llava_ultra.testing import tiny_artifact, tiny_image

HAS_BFLOAT16 = pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16")


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


@HAS_BFLOAT16
def test_a_model_answers_in_the_precision_of_its_training_or_another(tmp_path, folder, images):
    lowered = tmp_path / "lowered"
    tiny_artifact(lowered, tower_precision="bfloat16")
    full, trained, back = (
        load_assistant(*given) for given in ((folder,), (lowered,), (lowered, "cpu", "float32"))
    )
    wanted, found, same = (each.encode(images).tokens for each in (full, trained, back))
    assert torch.equal(same, wanted)
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.1)
    assert (trained.model.precision, full.model.precision) == ("float32", "float32")
    both = load_assistant(folder, "cpu", "bfloat16")
    assert both.model.precision == "bfloat16"
    clip, again = (each.encoder.towers["clip"] for each in (both, trained))
    assert torch.equal(clip(_pixels(both)), again(_pixels(both)))


@HAS_BFLOAT16
def test_what_was_loaded_is_known_by_its_own_fingerprint(folder):
    full, lowered = load_assistant(folder), load_assistant(folder, "cpu", "bfloat16")
    for assistant in (full, lowered):
        for name, tower in assistant.encoder.towers.items():
            assert tower.fingerprint == assistant.encoder.loaded[name]
    assert full.encoder.loaded == {
        name: full.manifest["digests"][name] for name in full.encoder.towers
    }
    assert not set(full.encoder.loaded.values()) & set(lowered.encoder.loaded.values())


def test_a_precision_that_the_device_lacks_is_refused(folder, monkeypatch):
    monkeypatch.setattr(products, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"serve\.precision 'bfloat16' needs a CPU with AVX-512"):
        load_assistant(folder, "cpu", "bfloat16")


def _pixels(assistant):
    size = assistant.encoder.towers["clip"].image_size
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
