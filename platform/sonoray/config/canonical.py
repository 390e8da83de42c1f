"""The one canonical JSON form of a configuration, its hash, and how two of them differ.

The hash names stage outputs and tags MLflow runs.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


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
