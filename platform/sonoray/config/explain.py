"""What is wrong with a configuration, in one line that names the key, the value and the fix."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

_LONGEST_INPUT = 60
"""Characters of a wrong value that a message shows."""

_TABLE_ERRORS = {"dict_type", "model_type", "model_attributes_type"}
_ARRAY_ERRORS = {"tuple_type", "list_type"}


def describe_error(model: type[BaseModel], detail: Any) -> str:  # noqa: ANN401
    """Put one of pydantic's `ErrorDetails` into words."""
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
        case "string_pattern_mismatch" if examples := _examples(model, detail["loc"]):
            message = f"write it as in {' or '.join(map(repr, examples))}"
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


def _examples(model: type[BaseModel], path: Sequence[int | str]) -> Sequence[Any]:
    """The examples that a field names; nobody should have to read its pattern."""
    holder = _model_in(_descend(model, path[:-1])[1])
    field = holder.model_fields.get(str(path[-1])) if holder else None
    return (field.examples if field else None) or ()


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
