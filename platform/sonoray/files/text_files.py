"""Text from outside: files in UTF-8, or GB18030, in which Chinese systems still export.

GB18030 gives almost any bytes a meaning, so a file that is UTF-8 but for a few bytes is called
damaged instead of being read so, and one that becomes private characters is refused.
"""

import logging
from pathlib import Path

from sonoray.errors import DataError

logger = logging.getLogger(__name__)


def is_utf8(text: str) -> bool:
    """Whether it can be written: other bytes of an argument come as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_charset(name: str) -> bool:
    """Whether Python knows a character set of that name."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError):
        return False
    return True


def read_text(path: Path) -> str:
    """Read a text in UTF-8, with or without byte order mark, or in GB18030.

    Raises:
        DataError: the file is missing, empty or in neither encoding.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no file {str(path)!r}; check the path") from None
    except OSError as error:
        raise DataError(
            f"file {str(path)!r} is not readable ({error.strerror}); check the path"
        ) from None
    if not data.strip():
        raise DataError(f"file {str(path)!r} is empty; export it again")
    if b"\0" in data:  # which UTF-8 would take for characters
        raise DataError(
            f"file {str(path)!r} is not readable: no text, or one in UTF-16; save it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        first = error.start
    shown = data.decode("utf-8", errors="replace")
    broken = shown.count("\ufffd")
    if sum(not character.isascii() for character in shown) > 2 * broken:
        raise DataError(
            f"file {str(path)!r} is not readable: UTF-8, but damaged at byte {first}; "
            "save it again as UTF-8"
        )
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError as error:
        raise DataError(
            f"file {str(path)!r} is not readable: neither UTF-8 (byte {first}) nor GB18030 "
            f"(byte {error.start}); save it as UTF-8"
        ) from None
    if any("\ue000" <= character <= "\uf8ff" for character in text):
        raise DataError(
            f"file {str(path)!r} is not readable: neither UTF-8 (byte {first}) nor GB18030, which "
            "makes characters of it that no text has (Big5, perhaps); save it as UTF-8"
        )
    logger.info("%s is not UTF-8; read as GB18030", path.name)
    return text
