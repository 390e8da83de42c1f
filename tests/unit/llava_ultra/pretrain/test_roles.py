"""What each role learns from, and what is left of the decoder."""

import pytest
import torch

from llava_ultra.config import LoraSettings
from llava_ultra.language.chat import IGNORED
from llava_ultra.pretrain.pretrain_config import RolesConfig
from llava_ultra.pretrain.roles import RoleExample, _labels, train_roles
from llava_ultra.testing import enliven, tiny_config, tiny_language

LORA = LoraSettings(rank=4, alpha=8)
EXAMPLES = [
    RoleExample(
        prompt=list(range(10 + 5 * n)),
        answer=[20, 21 + n, 7, 30, 8, 2],
        classifies=[False, False, False, True, True, False],
    )
    for n in range(3)
]


def test_a_half_learns_its_own_tokens_and_the_whole_all():
    whole = _labels(EXAMPLES[:1], "full", 7)[0].tolist()
    assert whole == [20, 21, 7, 30, 8, 2, IGNORED]
    identify = _labels(EXAMPLES[:1], "identify", 6)[0].tolist()
    assert identify == [20, 21, 7, IGNORED, IGNORED, 2]
    classify = _labels(EXAMPLES[:1], "classify", 6)[0].tolist()
    assert classify == [IGNORED, IGNORED, IGNORED, 30, 8, IGNORED]


@pytest.mark.parametrize("own_prompt", [False, True])
def test_three_adapters_learn_and_the_decoder_stays(own_prompt: bool):
    language = tiny_language(tiny_config())
    enliven(language.model)
    # as initialised the head tells no two tokens apart, whatever the adapters do
    language.model.get_input_embeddings().weight.data.mul_(20)
    before = language.digest
    said: list[tuple[int, int]] = []
    config = RolesConfig(steps=30, batch_size=2, learning_rate=2e-2, own_prompt=own_prompt)
    states, losses = train_roles(
        language, EXAMPLES, LORA, config, lambda step, steps, _: said.append((step, steps))
    )
    assert language.digest == before
    assert said == [(step, 90) for step in range(1, 91)]
    for values in losses.values():
        assert len(values) == 30
    assert losses["full"][-1] < 0.7 * losses["full"][0]
    # a half goes on from what the whole has learned
    assert losses["identify"][0] < 0.7 * losses["full"][0]
    assert set(states) == {"full", "identify", "classify"}
    keys = set(states["full"])
    for role in ("identify", "classify"):
        assert set(states[role]) == keys
        assert any(not torch.equal(states[role][key], states["full"][key]) for key in keys)


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match=r"3 reports with text are fewer than .*batch_size 4"):
        train_roles(tiny_language(tiny_config()), EXAMPLES, LORA, RolesConfig(batch_size=4))


def test_reports_without_fields_teach_a_half_nothing_and_no_nonsense():
    bare = [RoleExample(prompt=list(range(8)), answer=[2], classifies=[False]) for _ in range(2)]
    config = RolesConfig(steps=3, batch_size=2)
    _, losses = train_roles(tiny_language(tiny_config()), bare, LORA, config)
    assert losses["classify"] == [0, 0, 0]
    assert all(loss > 0 for loss in losses["full"])
