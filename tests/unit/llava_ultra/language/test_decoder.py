import pytest
import torch
from transformers import PreTrainedTokenizerFast

from llava_ultra.config import LanguageConfig
from llava_ultra.language.chat import (
    encode_chat,
    encode_text,
    token_id,
)
from llava_ultra.language.decoder import (
    Language,
    adopt_language,
    build_language_model,
    check_shape,
    load_language,
    save_language,
)
from llava_ultra.language.tokenizer import PLACEHOLDERS
from llava_ultra.testing import TEXTS, tiny_config, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
TOKENIZER = LANGUAGE.tokenizer


def test_saved_language_comes_back_with_the_same_digest(tmp_path):
    save_language(LANGUAGE, tmp_path)
    loaded = load_language(tmp_path)
    assert loaded.digest == LANGUAGE.digest
    assert encode_text(loaded.tokenizer, TEXTS[4]) == encode_text(TOKENIZER, TEXTS[4])


def test_a_call_that_pads_leaves_the_digest_alone():
    language = tiny_language(CONFIG)
    before = language.digest
    language.tokenizer(["甲状腺", "乳腺"], padding=True, truncation=True, max_length=4)
    assert language.digest == before


def test_a_decoder_of_another_shape_than_told_is_refused():
    told = {"model_type": "llama", "hidden_size": 32}
    check_shape(LANGUAGE.model, told)
    check_shape(LANGUAGE.model, {})
    with pytest.raises(ValueError, match=r"hidden_size 32 and not 64, depth None and not 3; give"):
        check_shape(LANGUAGE.model, told | {"hidden_size": 64, "depth": 3})


def test_a_shape_without_what_it_is_of_is_refused():
    for values in ({"shape": {"model_type": "llama"}}, {"source": "x", "shape": {"width": 3}}):
        with pytest.raises(ValueError, match=r"language\.shape tells of a model"):
            LanguageConfig.model_validate(values)


def test_pickled_weights_are_refused(tmp_path):
    save_language(LANGUAGE, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(LANGUAGE.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks \*\.safetensors; name the folder"):
        load_language(tmp_path)


def test_an_adopted_language_model_gets_what_the_chat_format_needs(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.BPE({"a": 0, "<eos>": 1}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    foreign = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    model = build_language_model(CONFIG.language, foreign)
    save_language(Language(tokenizer=foreign, model=model), tmp_path / "foreign")
    first, second = (adopt_language(tmp_path / "foreign") for _ in range(2))
    assert first.digest == second.digest
    ids, _ = encode_chat(first.tokenizer, [{"role": "user", "content": "a"}])
    assert len(set(ids)) == 5
    assert all(token_id(first.tokenizer, placeholder) for placeholder in PLACEHOLDERS)
    assert first.model(input_ids=torch.tensor([ids])).logits.shape[-1] == len(first.tokenizer)
    # its publisher's shape, before tokens are added
    told = {"model_type": "llama", "vocab_size": 2}
    assert adopt_language(tmp_path / "foreign", told).digest == first.digest
    with pytest.raises(ValueError, match=r"vocab_size 2 and not 3; give"):
        adopt_language(tmp_path / "foreign", told | {"vocab_size": 3})
    kept = first.model.get_input_embeddings().weight[:2]
    assert torch.equal(kept, model.get_input_embeddings().weight)
    save_language(first, tmp_path / "adopted")
    assert load_language(tmp_path / "adopted").digest == first.digest


def test_a_language_model_of_ours_is_adopted_as_it_is(tmp_path):
    save_language(LANGUAGE, tmp_path)
    assert adopt_language(tmp_path).digest == LANGUAGE.digest


def test_a_missing_language_model_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"nothing' does not exist; name a folder$"):
        load_language(tmp_path / "nothing")
    (tmp_path / "config.json").touch()
    told = r"lacks tokenizer\.json and \*\.safetensors; name the folder of a published model with"
    with pytest.raises(ValueError, match=told):
        load_language(tmp_path)
    with pytest.raises(ValueError, match="'nobody/nothing' cannot be loaded: ") as caught:
        load_language("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("heads", [3, 16])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"hidden_size 80 .* num_heads {heads}"):
        LanguageConfig(hidden_size=80, num_heads=heads)
