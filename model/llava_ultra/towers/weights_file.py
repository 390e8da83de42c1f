"""Whether a file of weights holds tensors alone, told before anything is loaded or started.

`.pt` and `.pth` files are pickles, and unpickling runs what they name. torch's own restricted
reader (`weights_only`) is what keeps that from happening when the weights are read; it reads them
in a worker, minutes later, and its words advise to read them without it. So the names are looked at
here first, in the driver: the pickle is taken apart and never executed, and torch is not imported.
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

SUFFIXES = (".safetensors", ".pt", ".pth")
_TENSORS = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode"
    r"|(__builtin__|builtins) (bytearray|set|complex)"
    r"|torch(\.cuda|\.sparse|\.cuda\.sparse|\.storage)? \w*(Storage|Tensor)"
    r"|torch (Size|device|b?float\w*|u?int\d+|complex\d+|bool|half|double|q\w+|bits\w+|per_\w+)"
    r"|torch\._utils _rebuild\w+|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.nn\.parameter \w+|torch\.serialization _get_layout"
)
"""What files of tensors name, as `module name`; torch's reader decides in the end."""
_NUM_PICKLES = 5
"""Of a file in torch's oldest format, before the numbers."""
_NO_PICKLE = (ValueError, UnicodeDecodeError, OverflowError)
"""What `pickletools` raises of bytes that are none."""
_MOST_BYTES = 500_000_000
"""Of a pickle, from which a checkpoint keeps its numbers apart: real ones have some kilobytes."""


def check_weights_file(path: Path) -> None:
    """Make sure that a file of weights is there, is whole as far as it says, and runs nothing.

    Raises:
        ValueError: it is of another kind, missing, no file of weights, or code would have to run.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"weights {str(path)!r} are none of .safetensors, .pt and .pth; convert them"
        )
    if not path.is_file():
        raise ValueError(f"weights {str(path)!r} do not exist; check the path")
    if path.suffix == ".safetensors":
        _check_safetensors(path)
        return
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file) and not _is_pickle(file):
            raise _damaged(path, "no file that torch saved, or a part of one")
        code = next(_iter_code(file), None)
    if code is not None:
        raise ValueError(
            f"weights {str(path)!r} are no plain tensors: reading them would run {code}, so they "
            "are not read; get them as .safetensors, or convert them where you trust their origin "
            "(save the state dict alone)"
        )


def _check_safetensors(path: Path) -> None:
    """Hold the header to the file's length, without reading tensors."""
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise _damaged(path, str(error).splitlines()[0][:120]) from None


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"weights {str(path)!r} are no plain tensors ({why}); get them again")


def _is_pickle(file: BinaryIO) -> bool:
    file.seek(0)
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(file))
    except _NO_PICKLE:
        return False


def _iter_code(file: BinaryIO) -> Iterator[str]:
    """What a file's pickles would run beyond tensors; nothing where it is no pickle at all."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if "/code/" in entry.filename:
                    yield "a TorchScript program"
                if entry.filename.endswith("/data.pkl") and entry.file_size <= _MOST_BYTES:
                    yield from _iter_pickle(io.BytesIO(archive.read(entry)))
        return
    file.seek(0)
    for _ in range(_NUM_PICKLES):
        yield from _iter_pickle(file)


def _iter_pickle(file: BinaryIO) -> Iterator[str]:
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                if not _TENSORS.fullmatch(str(argument)):
                    yield repr(str(argument).replace(" ", ".")[:80])
            elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                yield "a name that it makes up on the way"
    except _NO_PICKLE:  # torch's reader says so
        return
