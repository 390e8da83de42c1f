"""Typed configuration: frozen pydantic models, TOML files, dotted overrides, resolved JSON.

The rules: an unknown key is an error that lists the known ones; nothing is read from the
environment (that is for endpoints and secrets); the resolved configuration has one canonical JSON
form, whose hash names stage outputs and tags MLflow runs.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sonoray.errors import ConfigError

C = TypeVar("C", bound=BaseModel)


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its path and value.

    The value is read as TOML (`3`, `0.1`, `true`, `[1, 2]`, `"x"`) and, where that fails, as a
    plain string, so that `--set model=tiny` needs no quotes in the shell.

    Raises:
        ConfigError: there is no `=` or no key before it.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r} is not KEY=VALUE; write it like train.num_workers=1")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    return key.strip().split("."), value


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with the dotted `overrides` applied in order; `values` stays as it is.

    Raises:
        ConfigError: an override is malformed or goes through a key that is no table.
    """
    result: dict[str, Any] = json.loads(json.dumps(values))
    for text in overrides:
        path, value = parse_override(text)
        table = result
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {text!r} goes through {part!r}, which is not a table")
        table[path[-1]] = value
    return result


def validate_config(model: type[C], values: Mapping[str, Any], origin: str) -> C:
    """Build `model` from plain values.

    Args:
        model: the configuration class.
        values: nested plain values, as TOML or JSON give them.
        origin: the file or argument that the values came from, for the message.

    Raises:
        ConfigError: one line with every wrong key, its value and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_describe(model, detail) for detail in error.errors())
        raise ConfigError(f"{origin}: {problems}") from None


def load_config(model: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read a TOML file, apply dotted overrides and validate the result.

    Raises:
        ConfigError: the file is missing, unreadable or malformed, or a value does not fit.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {str(path)!r} does not exist; check --config") from None
    except OSError as error:
        raise ConfigError(
            f"config file {str(path)!r} cannot be read ({error.strerror}); check --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from None
    origin = " ".join([str(path), *(f"--set {text}" for text in overrides)])
    return validate_config(model, apply_overrides(values, overrides), origin)


def changed_settings(first: Any, second: Any, key: str = "") -> dict[str, tuple[Any, Any]]:  # noqa: ANN401 - JSON values
    """Both values of every setting that differs, by dotted key; None stands for a missing one.

    Arrays of one length are compared by place, as in `train.stages.1.epochs`.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        parts = [
            (part, first.get(part), second.get(part)) for part in dict.fromkeys([*first, *second])
        ]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        parts = list(zip(map(str, range(len(first))), first, second, strict=True))
    else:
        return {} if first == second else {key: (first, second)}
    changed: dict[str, tuple[Any, Any]] = {}
    for part, one, other in parts:
        changed |= changed_settings(one, other, f"{key}.{part}" if key else part)
    return changed


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Serialise to JSON with sorted keys and no blanks: equal values give equal bytes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _describe(model: type[BaseModel], detail: Any) -> str:  # noqa: ANN401 - pydantic ErrorDetails
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(model, detail["loc"][:-1]))
        return f"unknown key {where!r} (known keys here: {known})"
    if detail["type"] == "missing":
        return f"key {where!r} is required"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where} = {detail['input']!r}: {message}" if where else message


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    current: type[BaseModel] = model
    for part in path:
        field = current.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return sorted(current.model_fields) if current is not model else ["see --dry-run"]
        current = inner
    return sorted(current.model_fields)
