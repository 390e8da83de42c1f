"""Models over one decoder answer as each does alone; what shares too little is refused."""

from pathlib import Path

import pytest
import torch

from llava_ultra.export.assistant import load_answerer, load_assistant
from llava_ultra.export.hosted import HostedModels, check_hosted
from llava_ultra.testing import tiny_artifact, tiny_config, tiny_image


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for seed in range(2):
        tiny_artifact(root / str(seed), lively=True, seed=seed)
    return [root / str(seed) for seed in range(2)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_those_of_each_model_alone(folders: list[Path], precision: str):
    hosted = HostedModels(folders[0], "cpu", precision)
    models = [hosted.first, hosted.read(folders[1])]
    bank = hosted.bank
    for name, model in zip("ab", models, strict=True):
        bank.add(name, model.adapter, model.lora)
    visual = load_assistant(folders[0]).encode([tiny_image()])
    messages = [{"role": "user", "content": "图像显示什么?"}]
    found = []
    for name, model, folder in zip("ab", models, folders, strict=True):
        prompt = model.answerer.prepare(visual, messages)
        alone = load_answerer(folder, "cpu", precision)
        expected = alone.prepare(visual, messages)
        torch.testing.assert_close(prompt.inputs_embeds, expected.inputs_embeds)
        bank.choose([name])
        with torch.no_grad():
            logits, wanted = (
                each.model.language_model(inputs_embeds=prompt.inputs_embeds).logits.float()
                for each in (model.answerer, alone)
            )
        difference = float((logits - wanted).abs().max() / wanted.std())
        assert difference < (1e-4 if precision == "float32" else 0.1)
        found.append(logits)
    assert not torch.allclose(found[0], found[1], atol=0.1)


def test_what_shares_too_little_is_refused(folders: list[Path], tmp_path: Path):
    check_hosted(folders[1], folders[0])
    config = tiny_config()
    wide = config.model_copy(
        update={"language": config.language.model_copy(update={"intermediate_size": 96})}
    )
    tiny_artifact(tmp_path / "other", config=wide)
    with pytest.raises(ValueError, match="another language than the first one"):
        check_hosted(tmp_path / "other", folders[0])
    with pytest.raises(ValueError, match="another language than the first one"):
        HostedModels(folders[0], "cpu", "trained").read(tmp_path / "other")
