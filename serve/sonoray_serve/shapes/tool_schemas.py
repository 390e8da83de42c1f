"""The schema of a tool's arguments: refused where it contradicts itself or is not whole.

What a schema allows is listed for forced calls and told to the model, so a schema that no value
fits, or that refers to another, is refused before. Keywords that are not looked at here are no
error; they only keep a call from being forced (`sonoray_serve.shapes.tools`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords that hold schemas by name."""
_DATA = ("enum", "const", "default", "examples", "example")
"""Keywords that hold values and no schemas."""


def check_parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object.

    Raises:
        PydanticCustomError: it is none, refers to another, or contradicts itself.
    """
    if schema.get("type", "object") != "object":
        raise _refused("the schema's type must be object")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise _refused("properties must be an object of schemas")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(
        isinstance(name, str) and name in properties for name in required
    ):
        raise _refused("required must be a list of names of properties")
    _check(schema)
    return schema


def _check(schema: Mapping[str, Any]) -> None:
    if any(key in schema for key in _REFERENCES):
        raise _refused("a schema must be whole, without $ref")
    _check_values(schema)
    for key, value in schema.items():
        if key in _DATA:
            continue
        if key in _NAMED and isinstance(value, dict):
            inner = list(value.values())
            if not all(isinstance(each, dict | bool) for each in inner):
                raise _refused(f"{key} must be an object of schemas")
        else:
            inner = value if isinstance(value, list) else [value]
        for each in inner:
            if isinstance(each, dict):
                _check(each)


def _check_values(schema: Mapping[str, Any]) -> None:
    """Check type, enum and const against each other."""
    kinds = schema.get("type")
    known = [kinds] if isinstance(kinds, str) else kinds
    if known is not None and not (
        isinstance(known, list) and known and all(str(kind) in _IS for kind in known)
    ):
        raise _refused(f"a type must be one of {', '.join(_IS)}")
    listed = schema.get("enum")
    if listed is not None and not (isinstance(listed, list) and listed):
        raise _refused("enum must be a list of values")
    values = [*(listed or []), *([schema["const"]] if "const" in schema else [])]
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise _refused("enum and const must be finite")
    if known and not all(any(_IS[kind](value) for kind in known) for value in values):
        raise _refused("enum and const must be of the schema's type")
    if listed and "const" in schema and not any(_same(schema["const"], each) for each in listed):
        raise _refused("const must be in enum")


def _same(first: Any, second: Any) -> bool:  # noqa: ANN401 - a client's JSON
    return first == second and isinstance(first, bool) == isinstance(second, bool)


def _is_number(value: Any) -> bool:  # noqa: ANN401 - a client's JSON
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == value // 1,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError("tool_schema", message)
