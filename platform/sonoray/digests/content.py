"""The content of a user's file or folder as a digest, so that where it lies does not matter.

Weights of others are gigabytes, and every command asks for their digest: it is remembered with size
and time of change of each file, and taken as it is while those stay. It outlives the file: what was
copied out of it once may be used when the original is gone.
"""

import hashlib
import json
from pathlib import Path

from sonoray.files.json_files import write_json

_SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".txt", ".model"})
"""Files of a folder that count: weights, tokenizer and settings, not its notes."""


def content_digest(path: Path, memory: Path, *, known_as: str = "") -> str | None:
    """Sha256 (hex) over a file, or over names and contents of a folder's files.

    Args:
        path: the file or folder.
        memory: folder that remembers digests.
        known_as: what it is remembered as; by default its path.

    Returns:
        The digest, or the last known one of what is gone; None where nothing was ever there.
    """
    called = known_as or str(path.absolute())
    name = hashlib.sha256(called.encode()).hexdigest()[:16]
    record = memory / f"{name}.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    files = _files(path)
    if not files:
        return str(known["digest"]) if known else None
    stats = [file.stat() for file in files]
    stamps = [
        [file.name, stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)
    ]
    if known and known["files"] == stamps:
        return str(known["digest"])
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"" if file == path else f"{file.name}|".encode())
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    memory.mkdir(parents=True, exist_ok=True)
    write_json(record, {"files": stamps, "digest": digest.hexdigest()})
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
