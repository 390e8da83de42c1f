"""Configurations from TOML files and dotted overrides, validated in one place.

An unknown key is an error that lists the known ones; nothing is read from the environment (that is
for endpoints and secrets).
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sonoray.config.explain import describe_error
from sonoray.config.extend import read_values
from sonoray.errors import ConfigError

C = TypeVar("C", bound=BaseModel)

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
"""Of a URL with credentials: an error repeats what was written, and logs keep it."""


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


def apply_overrides(
    values: Mapping[str, Any], overrides: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return `values` with the dotted `overrides` applied in order; `values` stays as it is.

    A number goes into an array, as in `train.stages.1.epochs=1`. Where an override goes into an
    array or a table that `values` lacks, it gets what `defaults` has there: the whole array, and of
    a table its `type`, which says what the other keys mean.

    Raises:
        ConfigError: an override is malformed, or goes through a plain value or past an array.
    """
    result: dict[str, Any] = json.loads(json.dumps(values))
    for text in overrides:
        path, value = parse_override(text)
        inside: Any = result
        default: Any = defaults or {}
        for place, part in enumerate(path):
            where = ".".join(path[:place])
            if isinstance(inside, list):
                if not (part.isdecimal() and int(part) < len(inside)):
                    raise ConfigError(
                        f"--set {text}: {where} is an array of {len(inside)}; name one of its "
                        f"entries by its place, from {where}.0 to {where}.{len(inside) - 1}"
                    )
            elif not isinstance(inside, dict):
                raise ConfigError(
                    f"--set {text}: {where} is the plain value {inside!r} and has no keys; "
                    f"write {where}=VALUE"
                )
            key: Any = int(part) if isinstance(inside, list) else part
            if place == len(path) - 1:
                inside[key] = value
                break
            default = _entry(default, part)
            if isinstance(inside, dict) and key not in inside:
                inside[key] = _beginning(default)
            inside = inside[key]
    return result


def _entry(values: Any, part: str) -> Any:  # noqa: ANN401 - JSON values
    """What lies at `part` of a table or an array; None where nothing does."""
    if isinstance(values, Mapping):
        return values.get(part)
    return values[int(part)] if isinstance(values, list) and part.isdecimal() else None


def _beginning(default: Any) -> Any:  # noqa: ANN401 - JSON values
    """What an override finds in a place that the values leave to `default`."""
    if isinstance(default, list):
        return json.loads(json.dumps(default))
    return {"type": default["type"]} if isinstance(default, Mapping) and "type" in default else {}


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
        problems = "; ".join(describe_error(model, detail) for detail in error.errors())
        raise ConfigError(_PASSWORD.sub(r"\1:***@", f"{origin}: {problems}")) from None


def load_config(
    model: type[C],
    path: Path,
    overrides: Sequence[str] = (),
    presets: Mapping[str, Path] = MappingProxyType({}),
) -> C:
    """Read a TOML file, apply dotted overrides and validate the result.

    Args:
        model: the configuration class.
        path: the file.
        overrides: `KEY=VALUE` each, applied in order.
        presets: files that the file may extend by name (`sonoray.config.extend`).

    Raises:
        ConfigError: the file is missing, unreadable or malformed, or a value does not fit.
    """
    values = read_values(path, presets)
    if not overrides:
        return validate_config(model, values, str(path))
    defaults = model.model_construct().model_dump(mode="json")
    changed = apply_overrides(values, overrides, defaults)
    origin = " ".join(f"--set {text}" for text in _concerned(model, changed, overrides))
    try:
        model.model_validate(values)
    except ValidationError:  # the file may be what is wrong
        origin = f"{path} {origin}"
    return validate_config(model, changed, origin)


def _concerned(
    model: type[C], values: Mapping[str, Any], overrides: Sequence[str]
) -> Sequence[str]:
    """Those overrides that wrong values come from; all of them where that does not show."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        wrong = [[str(part) for part in detail["loc"]] for detail in error.errors()]
        keys = {text: text.partition("=")[0].strip().split(".") for text in overrides}
        return [
            text
            for text, key in keys.items()
            if any(key[: len(loc)] == loc[: len(key)] for loc in wrong)
        ] or overrides
    return overrides
