"""Modality tokens and heads leave with a model and come back with it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_ultra.decoding.class_scores import read_classes, score_classes
from llava_ultra.export.assistant import load_answerer, load_assistant
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.testing import tiny_artifact, tiny_config

BANK = ClassBank(classes=(BankClass(name="良性"), BankClass(name="恶性", descriptions=("乳腺",))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    objectives = (*tiny_config().objectives, RecognitionObjective(bank="phantom-zh"))
    tiny_artifact(folder, config=tiny_config().model_copy(update={"objectives": objectives}))
    return folder


def shares(answerer):
    classes = read_classes(answerer.model, answerer.tokenizer, BANK)
    tokens = torch.randn(2, 3, 4, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return score_classes(answerer.model, answerer.tokenizer, classes, tokens, mask, ["a", "b"])


def test_the_loaded_model_scores_classes_as_the_saved_weights_say(folder):
    assistant, answerer = load_assistant(folder), load_answerer(folder)
    saved = load_file(folder / "recognition.safetensors")
    assert {"tokens.image", "tokens.text"} <= set(saved)
    for name, tensor in assistant.model.recognition.state_dict().items():
        assert torch.equal(tensor, saved[name])
    found = shares(assistant)
    assert found.shape == (2, 2)
    assert found.std() > 0
    torch.testing.assert_close(shares(answerer), found, rtol=1e-3, atol=1e-3)  # adapter merged


def test_a_study_is_scored_alike_alone_and_beside_others(folder):
    assistant = load_assistant(folder)
    classes = read_classes(assistant.model, assistant.tokenizer, BANK)
    tokens = torch.randn(2, 3, 4, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    both = score_classes(assistant.model, assistant.tokenizer, classes, tokens, mask, ["a", "b"])
    alone = score_classes(
        assistant.model, assistant.tokenizer, classes, tokens[1:, :1], mask[1:, :1], ["b"]
    )
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_changed_or_missing_weights_are_refused(folder, tmp_path):
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    path = changed / "recognition.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"recognition\.safetensors"):
        load_answerer(changed)
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks recognition\.safetensors"):
        load_answerer(changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "attention"}, "learned no weights of descriptions"),
        ({"against": "prompts"}, None),
        ({"against": "embeddings"}, None),
    ],
)
def test_what_the_training_gave_can_be_asked_for(folder, arguments, message):
    answerer = load_answerer(folder)
    if message:
        with pytest.raises(ValueError, match=message):
            read_classes(answerer.model, answerer.tokenizer, BANK, **arguments)
    else:
        found = read_classes(answerer.model, answerer.tokenizer, BANK, **arguments)
        assert (found.locals_ is None) == (arguments["against"] == "embeddings")


def test_a_model_without_the_objective_has_no_part_of_it(tmp_path):
    manifest = tiny_artifact(tmp_path)
    assert "recognition" not in manifest["digests"]
    assert not (tmp_path / "recognition.safetensors").exists()
    assert not [
        key for key in json.loads((tmp_path / "manifest.json").read_text()) if "recog" in key
    ]
    answerer = load_answerer(tmp_path)
    with pytest.raises(ValueError, match="was not trained to recognise"):
        read_classes(answerer.model, answerer.tokenizer, BANK)
