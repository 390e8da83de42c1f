"""Which folders of pages are made: a mark tells them from the folders that somebody filled by hand.

The mark holds the digests of the files that were written, so that questions which somebody put
there, or changed, are never replaced. It is written before anything else: what an interrupted
command left behind can be made again.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from sonoray.errors import DataError
from sonoray.files.json_files import write_json, write_whole

MARK = ".sonoray-pages.json"


def mark_made(folder: Path, files: Collection[str], images: str) -> None:
    """Mark a folder that is there.

    Args:
        folder: where pages will be written.
        files: those that will be replaced.
        images: folder in there whose images will be replaced.

    Raises:
        DataError: one of them is there, and not as it was made.
    """
    made = _digests(folder)
    held = [
        name
        for name in files
        if (folder / name).exists() and (made is None or _digest(folder / name) not in made)
    ]
    if made is None and (folder / images).exists():
        held.append(images)
    if held:
        raise DataError(
            f"folder {str(folder)!r} holds {held[0]!r}, which sonoray documents make did not "
            "write or somebody changed since; choose another --out, or move it away"
        )
    write_json(folder / MARK, made or [])


def write_made(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files of a marked folder, by name the text."""
    new = [hashlib.sha256(text.encode()).hexdigest() for text in texts.values()]
    old = [_digest(folder / name) for name in texts if (folder / name).is_file()]
    write_json(folder / MARK, [*old, *new])  # until all are replaced, both are ours
    for name, text in texts.items():
        write_whole(folder / name, text)


def _digests(folder: Path) -> list[str] | None:
    """What the mark holds; None where there is none."""
    try:
        held = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return [str(each) for each in held] if isinstance(held, list) else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
