import importlib
import re
import sys

import numpy as np
import pytest
import torch

from llava_ultra.config import ModelConfig
from llava_ultra.cost.parts import build_parts
from llava_ultra.language.chat import encode_chat, encode_text
from llava_ultra.language.decoder import (
    adopt_language,
    adopt_tokenizer,
    load_language,
    save_language,
)
from llava_ultra.language.gguf_file import check_gguf, gguf_path
from llava_ultra.testing import TEXTS, tiny_config, tiny_gguf, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    LANGUAGE.tokenizer.chat_template = TEMPLATE
    try:
        tiny_gguf(path, LANGUAGE)
    finally:
        LANGUAGE.tokenizer.chat_template = None
    return path


def test_a_gguf_file_gives_the_decoder_that_was_written(tiny):
    language = load_language(tiny)
    ids = torch.tensor([[3, 4, 5, 9, 30, 40]])
    with torch.no_grad():
        found, wanted = (each.model(ids).logits for each in (language, LANGUAGE))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert language.tokenizer.chat_template == TEMPLATE
    for text in TEXTS:
        assert encode_text(language.tokenizer, text) == encode_text(LANGUAGE.tokenizer, text)


def test_an_adopted_gguf_file_is_a_plain_folder_afterwards(tiny, tmp_path):
    adopted = adopt_language(tiny)
    save_language(adopted, tmp_path)
    loaded = load_language(tmp_path)
    assert loaded.digest == adopted.digest
    assert "quantization_config" not in loaded.model.config.to_dict()
    question = [{"role": "user", "content": TEXTS[0]}]
    chat = encode_chat(loaded.tokenizer, question)
    assert chat == encode_chat(adopted.tokenizer, question)
    assert chat == encode_chat(adopt_tokenizer(tiny), question)


def test_quantised_weights_are_dequantised(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_gguf(path, LANGUAGE, kind="Q8_0")
    language = load_language(path)
    for name, weights in LANGUAGE.model.state_dict().items():
        found = language.model.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, weights, rtol=0, atol=float(weights.abs().max()) / 127)
    assert not torch.equal(
        language.model.get_input_embeddings().weight, LANGUAGE.model.get_input_embeddings().weight
    )


def test_what_a_gguf_file_costs_is_counted_from_its_header(tiny):
    model = ModelConfig.model_validate(
        CONFIG.model_dump() | {"language": {"source": str(tiny), "context_length": 256}}
    )
    decoder = build_parts(model).model.language_model
    weights = sum(p.numel() for n, p in decoder.named_parameters() if ".lora_" not in n)
    assert weights == sum(p.numel() for p in LANGUAGE.model.parameters())


def refused(source):
    with pytest.raises(ValueError, match=r"^language") as caught:
        check_gguf(gguf_path(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_absent_file_is_refused(tmp_path):
    assert "does not exist; check the path" in refused(tmp_path / "none.gguf")


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("these are no weights")
    assert "is no GGUF file" in refused(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tiny, tmp_path, share):
    data = tiny.read_bytes()
    path = tmp_path / "half.gguf"
    path.write_bytes(data[: int(share * len(data))])
    assert "is truncated, damaged or of a quantisation" in refused(path)


def test_an_unknown_quantisation_is_refused(tiny, tmp_path):
    import gguf

    reader = gguf.GGUFReader(tiny)
    (kind,) = reader.tensors[0].field.parts[4]
    data = bytearray(tiny.read_bytes())
    at = reader.tensors[0].field.offset + sum(
        part.nbytes for part in reader.tensors[0].field.parts[:4]
    )
    assert int.from_bytes(data[at : at + 4], "little") == kind
    data[at : at + 4] = (999).to_bytes(4, "little")
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    assert re.search(r"\b999\b.* is not a valid GGMLQuantizationType", refused(path))


def test_a_quantisation_without_a_reader_is_refused(tmp_path):
    import gguf

    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.Q8_K
    _, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor("token_embd.weight", np.zeros((4, size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "quantised as Q8_K (token_embd.weight), which cannot be read" in refused(path)


def test_a_package_that_carries_a_gguf_file_is_found_and_not_imported(tiny, tmp_path, monkeypatch):
    package = tmp_path / "carries_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(tiny.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert gguf_path("package:carries_weights") == package / "tiny.gguf"
    assert "carries_weights" not in sys.modules
    (package / "second.gguf").write_bytes(b"")
    assert "holds 2 GGUF files and not one" in refused("package:carries_weights")


@pytest.mark.parametrize("name", ["no_such_package", "os.path", "../etc", ""])
def test_a_package_that_is_missing_is_refused(name):
    assert f"there is no package {name!r} here" in refused(f"package:{name}")


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-0.5B", "/data/models/qwen", ""])
def test_other_sources_are_no_gguf_files(source):
    assert gguf_path(source) is None
