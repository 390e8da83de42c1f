"""In which character set a header's texts are, whatever it declares.

Machines write the texts of the work list as they come, under the term that their software was
delivered with: GBK under `ISO_IR 192` or `ISO_IR 100`, UTF-8 under `GB18030`, Big5 under nothing. A
name that is read in the wrong set is rubbish, and rubbish is not found in a report. So the bytes
are read twice over:

- `best_reading` is what they most likely mean, for labels and identity. The declared set counts
  where it can be right; `describe_charsets` says where it cannot be.
- `all_readings` is whatever they can mean, for the search of names in texts. A reading too many
  costs nothing, a reading too few leaves a name.

A reading is strict: bytes that the set does not have, control characters and characters of private
use rule it out. Texts that a system converted once too often (UTF-8 made of bytes that were taken
for Latin-1 or GBK) are read back.
"""

import codecs
import contextlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    ESC,
    convert_encodings,
    decode_bytes,
    python_encoding,
)

from sonoray.files.text_files import is_charset

_UTF8 = "utf-8"
_CANDIDATES = ("gb18030", "big5hkscs", "cp949", "cp932")
"""GB18030, and the supersets of Big5, EUC-KR and Shift-JIS that systems write under these names."""
_SHOWN = {
    "big5hkscs": "Big5",
    "cp949": "EUC-KR",
    "cp932": "Shift-JIS",
    "gb18030": "GB18030",
    _UTF8: "UTF-8",
}
_LATIN = frozenset(f"iso8859-{number}" for number in (1, 2, 3, 4, 9))
_ASCII_TERMS = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
"""Which pydicom takes for Latin-1."""
_UNKNOWN = "ascii"
"""What stands for a term that names no set."""
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})
_LINES = "\t\n\f\r"
_PADDING = b"\0 "


@dataclass(frozen=True, kw_only=True, slots=True)
class Charsets:
    """What an object's texts may be in."""

    declared: tuple[str, ...]
    """Python's names of the sets that it declares; empty where it declares none."""
    terms: str
    """What it declares, in DICOM's terms; others are not quoted."""
    undeclared: str
    """Python's name of the set of texts whose object declares none and that are no UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A text as it is read."""

    text: str = field(repr=False)
    encoding: str
    """Python's name of the set, or several."""
    is_declared: bool
    """Whether that is what the object declares; True where it declares nothing."""


def to_charsets(declared: str | Iterable[str] | None, undeclared: str) -> Charsets:
    """Read the value of Specific Character Set.

    Args:
        declared: one term, several or None.
        undeclared: Python's name of the set of undeclared texts that are no UTF-8.
    """
    given = [declared] if isinstance(declared, str) else list(declared or ())
    terms = [_corrected(term) for term in given]
    if not any(terms):
        return Charsets(declared=(), terms="", undeclared=codecs.lookup(undeclared).name)
    first, *others = convert_encodings(terms)
    return Charsets(
        declared=("ascii" if terms[0] in _ASCII_TERMS else first, *others),
        terms="\\".join(terms).replace(_UNKNOWN, "unknown set"),
        undeclared=codecs.lookup(undeclared).name,
    )


def best_reading(value: bytes, charsets: Charsets, delimiters: set[int]) -> Reading:
    """Read bytes as what they most likely mean.

    No two values are read to one text: where nothing fits, bytes that are no text stay visible.

    Args:
        value: as the file has it, padding included.
        charsets: what it may be in.
        delimiters: bytes after which the first declared set is back.
    """
    value = value.strip(_PADDING)
    if value.isascii() and ESC not in value:
        return Reading(text=value.decode("ascii"), encoding="ascii", is_declared=True)
    first = (charsets.declared or (charsets.undeclared,))[0]
    declared = _decode_declared(value, charsets, delimiters)
    if declared is not None and not _is_contradicted(value, charsets):
        return Reading(text=declared, encoding=first, is_declared=True)
    for encoding in dict.fromkeys((_UTF8, charsets.undeclared, *_CANDIDATES)):
        found = _decode(value, encoding)
        if found is not None:
            return Reading(text=found, encoding=encoding, is_declared=not charsets.declared)
    text = value.decode(first, errors="backslashreplace")
    return Reading(text=text, encoding="none that fits", is_declared=False)


def all_readings(value: bytes, charsets: Charsets, delimiters: set[int]) -> tuple[str, ...]:
    """Every text that bytes can mean, the best one first; each once.

    Args:
        value: as the file has it, padding included.
        charsets: what it may be in.
        delimiters: bytes after which the first declared set is back.
    """
    best = best_reading(value, charsets, delimiters)
    value = value.strip(_PADDING)
    if value.isascii() and ESC not in value:
        return (best.text,)
    texts = [best.text]
    if (declared := _decode_declared(value, charsets, delimiters)) is not None:
        texts.append(declared)
    texts.extend(_plain_readings(value, charsets.undeclared))
    texts.extend(_read_back(value, charsets.undeclared))
    return tuple(dict.fromkeys(filter(None, texts)))


def describe_charsets(readings: Iterable[Reading], charsets: Charsets) -> str:
    """`reason: detail` where an object's texts are not in the set that it declares; else empty."""
    found = sorted({each.encoding for each in readings if not each.is_declared})
    if not found:
        return ""
    shown = " and ".join(_SHOWN.get(each, each) for each in found)
    return (
        f"impossible_charset: texts cannot be in the declared {charsets.terms or 'set'}; "
        f"read as {shown}"
    )


def _decode_declared(value: bytes, charsets: Charsets, delimiters: set[int]) -> str | None:
    """In the declared sets; without any in UTF-8, or else in the undeclared one."""
    if ESC in value:
        sets = [*charsets.declared, *CODES_TO_ENCODINGS.values()]
        escaped = decode_bytes(value, sets, delimiters)
        return escaped if _is_text(escaped) else None
    if charsets.declared:
        return _decode(value, charsets.declared[0])
    text = _decode(value, _UTF8)
    return _decode(value, charsets.undeclared) if text is None else text


def _is_contradicted(value: bytes, charsets: Charsets) -> bool:
    """Whether the bytes are plainly of another set than the declared one, which they fit too.

    A single-byte set fits any bytes, and two letters of GBK may be UTF-8 as well; three bytes for
    one letter, or words of letters that no Latin word is made of, are no chance.
    """
    if not charsets.declared or ESC in value:
        return False
    first = codecs.lookup(charsets.declared[0]).name
    if first == _UTF8:
        return False
    unicode = _decode(value, _UTF8)
    if unicode is not None and (_is_single_byte(first) or max(unicode) >= "\u0800"):
        return True
    if first not in _LATIN:
        return False
    words = [
        word for word in _words(_decode(value, charsets.undeclared) or "") if not word.isascii()
    ]
    return sum(map(len, words)) >= 2 and all(
        unicodedata.east_asian_width(each) in "WF" for word in words for each in word
    )


def _plain_readings(value: bytes, undeclared: str) -> Iterator[str]:
    """Readings without escapes; the last character may be cut, as fields are by length."""
    for encoding in dict.fromkeys((_UTF8, undeclared, *_CANDIDATES, "cp1252")):
        text = _decode(value, encoding, is_cut=True)
        if text is not None:
            yield text


def _read_back(value: bytes, undeclared: str) -> Iterator[str]:
    """Readings of what was UTF-8 made of bytes that had been taken for Latin-1, or for GBK."""
    try:
        text = codecs.getincrementaldecoder(_UTF8)().decode(value)
    except UnicodeDecodeError:
        return
    for mistaken in ("latin-1", "cp1252"):
        with contextlib.suppress(UnicodeEncodeError):
            yield from _plain_readings(text.encode(mistaken), undeclared)
    before = _decode(text.encode("gb18030"), _UTF8, is_cut=True)
    if before is not None:
        yield before


def _decode(value: bytes, encoding: str, *, is_cut: bool = False) -> str | None:
    """Strictly; None where the bytes are no text of that set."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(value, not is_cut)
    except UnicodeError:
        return None
    return text if _is_text(text) else None


def _is_text(text: str) -> bool:
    return "\ufffd" not in text and not any(
        unicodedata.category(each) in _NO_TEXT and each not in _LINES for each in text
    )


def _corrected(term: str) -> str:
    """A term that pydicom knows; its warnings would quote another, which may be a patient's."""
    term = re.sub(r"^ISO.2022.IR.", "ISO 2022 IR ", re.sub(r"^ISO.IR.", "ISO_IR ", term))
    return term if term in python_encoding or is_charset(term) else _UNKNOWN


def _is_single_byte(encoding: str) -> bool:
    return encoding.startswith("iso8859") or encoding in ("ascii", "tis-620")


def _words(text: str) -> Sequence[str]:
    return text.translate(dict.fromkeys(map(ord, "^=\\,"), " ")).split()
