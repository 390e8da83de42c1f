"""Reading banks: packaged ones by name, others from TOML or JSONL files.

TOML holds a `ClassBank` as it is, its classes as `[[classes]]`. JSONL holds a description a line,
`{"category": NAME, "description": TEXT}`, and may say `language`, `source`, `label` and `value`;
lines of one category belong to one class. A .txt file names a class a line, and nothing else.
"""

import json
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llava_ultra.recognition.bank import ClassBank

SUFFIXES = (".toml", ".jsonl", ".txt")
_KEYS = ("category", "description", "language", "source", "label", "value")


def packaged_banks() -> dict[str, Path]:
    """The banks that come with the package, by name."""
    folder = Path(str(files("llava_ultra.recognition"))) / "banks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_bank(name_or_path: str) -> ClassBank:
    """Read a packaged bank by name, or a file by path.

    Raises:
        ValueError: there is none, it is not UTF-8, or what it holds is no bank.
    """
    packaged = packaged_banks()
    path = packaged.get(name_or_path) or Path(name_or_path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"class bank {name_or_path!r} is unknown; use one of {', '.join(packaged)}, or a file "
            f"that ends in {', '.join(SUFFIXES)}"
        )
    told = f"class bank {name_or_path!r}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{told} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{told} cannot be read ({error.strerror}); check the path") from None
    try:
        values = _VALUES[path.suffix](text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{told} is no TOML: {error}; correct it") from None
    except ValueError as error:
        raise ValueError(f"{told}, {error}") from None
    return to_bank({"name": path.stem, **values}, told)


def to_bank(values: dict[str, Any], told: str) -> ClassBank:
    """Make a bank of plain values.

    Args:
        values: as a TOML file holds them.
        told: what messages call it.

    Raises:
        ValueError: they make no bank; one line.
    """
    try:
        return ClassBank.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{told}: {place + ': ' if place else ''}{reason}") from None


def _gather(text: str) -> dict[str, Any]:
    """The lines of a JSONL bank as the values of a TOML one."""
    common: dict[str, Any] = {}
    classes: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # texts may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is no JSON: {error.msg}; correct it") from None
        unknown = (
            [key for key in row if key not in _KEYS] if isinstance(row, dict) else ["no object"]
        )
        if unknown or not all(isinstance(value, str) for value in row.values()):
            raise ValueError(
                f"line {number} is not understood ({', '.join(unknown) or 'a value is no text'}); "
                f"its keys are {', '.join(_KEYS)}, all texts"
            )
        if not row.get("category") or "description" not in row:
            raise ValueError(f"line {number} lacks category or description; give both")
        common |= {key: row[key] for key in ("language", "source", "label") if key in row}
        entry = classes.setdefault(
            row["category"], {"name": row["category"], "values": [], "descriptions": []}
        )
        entry["descriptions"].append(row["description"])
        if "value" in row and row["value"] not in entry["values"]:
            entry["values"].append(row["value"])
    return {**common, "classes": list(classes.values())}


def _names(text: str) -> dict[str, Any]:
    """The lines of a list of names as the values of a TOML bank."""
    return {"classes": [{"name": line.strip()} for line in text.splitlines() if line.strip()]}


_VALUES: dict[str, Callable[[str], dict[str, Any]]] = {
    ".toml": tomllib.loads,
    ".jsonl": _gather,
    ".txt": _names,
}
"""How the text of a file becomes values, by its name's end."""
