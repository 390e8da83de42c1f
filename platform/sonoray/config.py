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
from typing import Any, TypeVar, get_args

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


_LONGEST_INPUT = 60
"""Characters of a wrong value that a message shows."""

_TABLE_ERRORS = {"dict_type", "model_type", "model_attributes_type"}
_ARRAY_ERRORS = {"tuple_type", "list_type"}


def _describe(model: type[BaseModel], detail: Any) -> str:  # noqa: ANN401 - pydantic ErrorDetails
    parts, annotation = _descend(model, detail["loc"])
    where = ".".join(parts)
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            known = _model_in(_descend(model, detail["loc"][:-1])[1])
            names = ", ".join(sorted(known.model_fields)) if known else "see --dry-run"
            return f"unknown key {where!r} (known keys here: {names})"
        case "missing":
            return f"key {where!r} is required"
        case "union_tag_not_found" | "union_tag_invalid":
            types = ", ".join(_members(annotation))
            given = value.get("type") if isinstance(value, Mapping) else None
            found = f"{where}.type = {given!r} is unknown" if given else f"{where} has no type"
            return f"{found}; set {where}.type to one of {types}"
        case error if error in _TABLE_ERRORS:
            message = f'write a TOML table, as in {where}={{key = "value"}}'
        case error if error in _ARRAY_ERRORS:
            message = f"write a TOML array, as in {where}=[{_example(annotation)}]"
        case _:
            message = str(detail["msg"]).removeprefix("Value error, ")
            if detail["type"] == "value_error" and isinstance(value, Mapping | BaseModel):
                named = message.startswith(f"{parts[-1]}.") if parts else True
                return ".".join([*parts[:-1], message]) if named else f"{where}: {message}"
    shown = repr(value)
    if len(shown) > _LONGEST_INPUT:
        shown = f"{shown[:_LONGEST_INPUT]}..."
    return f"{where} = {shown}: {message}" if where else message


def _descend(model: type[BaseModel], path: Sequence[int | str]) -> tuple[list[str], Any]:
    """The names on pydantic's way to a value, and the annotation there; None where it is unknown.

    Pydantic also names the member of a union that it took, which no user has written.
    """
    names: list[str] = []
    annotation: Any = model
    for part in path:
        members = _members(annotation)
        if part in members:
            annotation = members[str(part)]
            continue
        names.append(str(part))
        inner = _model_in(annotation)
        if inner is not None:
            field = inner.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            annotation = next(iter(get_args(annotation)), None)
    return names, annotation


def _example(array: Any) -> str:  # noqa: ANN401 - any annotation
    """How an entry of an array is written."""
    entry = _model_in(next(iter(get_args(array)), None))
    if entry is None:
        return "..."
    needed = [name for name, field in entry.model_fields.items() if field.is_required()]
    return "{" + ", ".join(f"{name}=..." for name in needed) + "}"


def _members(annotation: Any) -> dict[str, type[BaseModel]]:  # noqa: ANN401 - any annotation
    """The models of a union that their `type` tells apart, by type."""
    models = [member for member in map(_model_in, get_args(annotation)) if member is not None]
    return {
        str(member.model_fields["type"].default): member
        for member in models
        if "type" in member.model_fields
    }


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    """The model that an annotation is, or is beside None."""
    for part in (annotation, *(get_args(annotation) if _is_optional(annotation) else ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _is_optional(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return type(None) in get_args(annotation)
