"""The bytes of one token, as they stand in an answer's text.

Byte-level tokenizers (GPT-2, Llama 3, Qwen, ours) write each byte as a printable character, so a
token may be a part of a character, which no text can show: clients that look at single tokens get
its bytes. Others write bytes that they have no token for as `<0x0A>`.
"""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: "PreTrainedTokenizerFast", token: int) -> bytes:
    """The bytes of one token; those of all tokens join to the answer's text in UTF-8.

    Save that tokenizers of the SentencePiece kind drop the blank in front of a text's first word.
    """
    if token in tokenizer.added_tokens_decoder:
        return tokenizer.added_tokens_decoder[token].content.encode()
    written = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(written, str):  # a row of the embedding that is no token
        return b""
    alphabet = _byte_of()
    if _is_byte_level(tokenizer) and all(character in alphabet for character in written):
        return bytes(alphabet[character] for character in written)
    if byte := _BYTE.fullmatch(written):
        return bytes.fromhex(byte[1])
    return written.replace("\u2581", " ").encode()


def _is_byte_level(tokenizer: "PreTrainedTokenizerFast") -> bool:
    return "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)


@functools.cache
def _byte_of() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    return {character: byte for byte, character in table.items()}
