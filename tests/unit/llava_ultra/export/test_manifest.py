import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_ultra.config import ModelConfig
from llava_ultra.export.assistant import load_assistant
from llava_ultra.export.manifest import precision_of, read_artifact_manifest
from llava_ultra.testing import tiny_artifact, tiny_config


def copy_of(folder, target):
    import shutil

    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def test_the_exported_adapter_decides_the_answer(folder, tmp_path, answer):
    changed = copy_of(folder, tmp_path / "changed")
    path = changed / "adapter.safetensors"
    state = {name: tensor * -3 for name, tensor in load_file(path).items()}
    save_file(state, path)
    manifest = json.loads((changed / "manifest.json").read_text())
    from llava_ultra.digests.state_digest import state_digest

    manifest["digests"]["adapter"] = state_digest(state)
    (changed / "manifest.json").write_text(json.dumps(manifest))
    before, after = load_assistant(folder), load_assistant(changed)
    logits = [
        a.model.language_model(inputs_embeds=answer(before)[0].inputs_embeds).logits
        for a in (before, after)
    ]
    assert not torch.allclose(*logits, atol=1e-2)


@pytest.mark.parametrize(
    "file",
    [
        "adapter.safetensors",
        "connector.safetensors",
        "clip/weights.safetensors",
        "sam/weights.safetensors",
        "language/model.safetensors",
    ],
)
def test_any_changed_weight_is_refused_with_both_digests(folder, tmp_path, file):
    changed = copy_of(folder, tmp_path / "changed")
    state = load_file(changed / file)
    name = max(state, key=lambda key: state[key].numel())
    state[name] = state[name] + 1e-4
    save_file(state, changed / file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"digest [0-9a-f]{16} does not match the expected"
    ) as caught:
        load_assistant(changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'),
        ("tokenizer.json", '"_2DS_"', '"_2DX_"'),
        ("tokenizer_config.json", '"eos_token": "</s>"', '"eos_token": "<pad>"'),
    ],
)
def test_a_changed_language_setting_is_refused(folder, tmp_path, file, before, after):
    path = copy_of(folder, tmp_path / "changed") / "language" / file
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(ValueError, match="does not match the expected"):
        load_assistant(tmp_path / "changed")


def test_a_swapped_tower_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    from llava_ultra.testing import tiny_language, tiny_towers

    config = tiny_config()
    clip, _ = tiny_towers(config, tiny_language(config), seed=9)
    changed = copy_of(folder, tmp_path / "changed")
    clip.save(changed / "clip")  # complete and consistent in itself, but not the exported one
    with pytest.raises(ValueError, match="does not match"):
        load_assistant(changed)


@pytest.mark.parametrize("file", ["manifest.json", "adapter.safetensors", "sam/tower.json"])
def test_a_missing_file_is_named(folder, tmp_path, file):
    changed = copy_of(folder, tmp_path / "changed")
    (changed / file).unlink()
    with pytest.raises(ValueError, match=file.rsplit("/", maxsplit=1)[-1]):
        load_assistant(changed)


def test_a_newer_format_is_refused(folder, tmp_path):
    changed = copy_of(folder, tmp_path / "changed")
    manifest = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**manifest, "format": 4}))
    with pytest.raises(ValueError, match="has format 4"):
        load_assistant(changed)


def test_an_export_says_whether_its_questions_named_the_site(folder, tmp_path):
    changed = copy_of(folder, tmp_path / "changed")
    manifest = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**manifest, "site_cue": True}))
    assert [load_assistant(path).site_cue for path in (folder, changed)] == [False, True]


def test_merged_layers_and_a_class_token_come_through_export(tmp_path, answer, images):
    config = tiny_config()
    values = config.model_dump()
    values["fusion"] = {"type": "layer_merge"}
    values["clip"] |= {"feature_layers": [0, 1], "class_token": True}
    values["sam"] |= {"feature_layers": [0]}
    tiny_artifact(tmp_path, config=ModelConfig.model_validate(values))
    assistant = load_assistant(tmp_path)
    visual = assistant.encode(images)
    assert visual.tokens.shape == (3, 5, 32)
    prompt, text = answer(assistant)
    assert prompt.num_prompt_tokens > 5
    assert text == answer(load_assistant(tmp_path))[1]


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_every_kind_of_adapter_comes_through_export(tmp_path, variant, answer):
    values = tiny_config().model_dump()
    values["lora"]["variant"] = variant
    tiny_artifact(tmp_path, config=ModelConfig.model_validate(values))
    names = load_file(tmp_path / "adapter.safetensors")
    assert any("magnitude" in name for name in names) == (variant == "dora")
    plain = tmp_path / "plain"
    plain.mkdir()
    tiny_artifact(plain)
    prompt, text = answer(load_assistant(tmp_path))
    assert text == answer(load_assistant(tmp_path))[1]
    logits = [
        load_assistant(folder).model.language_model(inputs_embeds=prompt.inputs_embeds).logits
        for folder in (tmp_path, plain)
    ]
    assert not torch.allclose(*logits, atol=1e-3)


def test_a_manifest_names_the_precision_of_what_was_not_trained_in_float32(folder, tmp_path):
    plain = read_artifact_manifest(folder)
    assert "precision" not in plain  # the digests of before stay
    assert precision_of(plain, "model") == precision_of(plain, "towers") == "float32"
    lowered = tiny_artifact(tmp_path, tower_precision="bfloat16")
    assert lowered["precision"] == {"model": "float32", "towers": "bfloat16"}
    assert precision_of(read_artifact_manifest(tmp_path), "towers") == "bfloat16"
    with pytest.raises(ValueError, match="of its model is 'fp8', this version knows float32, bf"):
        precision_of(lowered | {"precision": {"model": "fp8"}}, "model")
