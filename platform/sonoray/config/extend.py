"""Configuration files that begin with another one: `extends = "tiny"` at the top of a TOML file.

The file's own values are laid over those of the file that it extends, which may extend a third one.
Tables are merged key by key; a plain value, an array, or a table of another `type` takes the place
of what stands there.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError

EXTENDS = "extends"


def read_values(
    path: Path, presets: Mapping[str, Path], below: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Read a TOML file and, below its values, those of the file that it extends.

    Args:
        path: the file.
        presets: files that are extended by name; others by a path relative to the file.
        below: files that led here, to refuse a circle.

    Raises:
        ConfigError: a file is missing, unreadable or malformed, or the files extend each other.
    """
    values = _read_toml(path, below)
    if EXTENDS not in values:
        return values
    named = values.pop(EXTENDS)
    base = presets.get(named) if isinstance(named, str) else None
    if base is None:
        if not isinstance(named, str) or not named.endswith(".toml"):
            raise ConfigError(
                f"{path}: {EXTENDS} = {named!r} must be one of {', '.join(presets)} or the path "
                "of a .toml file"
            )
        base = path.parent / named
    chain = (*below, path)
    if any(base.resolve() == each.resolve() for each in chain):
        raise ConfigError(f"{path}: {EXTENDS} = {named!r} goes round in a circle; extend another")
    return lay_over(read_values(base, presets, chain), values)


def lay_over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `values` over those of `base`; both stay as they are.

    Args:
        base: nested plain values.
        values: those that count where both have one.
    """
    result = dict(base)
    for key, value in values.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and _are_alike(below, value):
            result[key] = lay_over(below, value)
        else:
            result[key] = value
    return result


def _are_alike(base: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether both tables have the same keys: `type` says which ones a table may have."""
    return "type" not in values or values["type"] == base.get("type", values["type"])


def _read_toml(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    fix = f"check {EXTENDS} in {str(below[-1])!r}" if below else "check the path"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {str(path)!r} does not exist; {fix}") from None
    except OSError as error:
        raise ConfigError(
            f"config file {str(path)!r} cannot be read ({error.strerror}); {fix}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from None
