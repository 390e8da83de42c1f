"""Nested configurations as MLflow parameters: dotted names, limited lengths.

MLflow refuses names over 250 characters or with unusual signs and values over 6,000 characters,
and it takes at most 100 parameters or tags in a call. The whole configuration is kept as an
artifact beside them; parameters are for comparing runs in its tables.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

MAX_KEY_LENGTH = 250
MAX_VALUE_LENGTH = 6000
MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000

T = TypeVar("T")


def flatten_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested values to MLflow parameters.

    Tables become dotted names (`train.optimizer.lr`), and so do lists of tables, by place
    (`train.stages.1.epochs`); other lists and `None` become their JSON text. A name that is too
    long keeps its head and ends in a hash, so that two long names stay two. A value that is too
    long is told by its hash: the file of the configuration has it whole.
    """
    return {_key(name): _value(value) for name, value in _walk(values, "")}


def scalar_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among `values`, nested tables by dotted name.

    The rest is no metric. MLflow would keep an infinite value as 1.8e308, which sorts as the best.
    """
    return {
        _key(name): float(value)
        for name, value in _walk(values, "")
        if isinstance(value, Real) and math.isfinite(value)
    }


def not_finite(values: Mapping[str, Any]) -> list[str]:
    """Names of the numbers among `values` that are infinite or none, which are no metrics."""
    return [
        _key(name)
        for name, value in _walk(values, "")
        if isinstance(value, Real) and not math.isfinite(value)
    ]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from _walk({str(n): item for n, item in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _key(name: str) -> str:
    clean = re.sub(r"[^\w.\-/: ]", "_", name)
    if len(clean) <= MAX_KEY_LENGTH:
        return clean
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{clean[: MAX_KEY_LENGTH - 13]}-{digest}"


def _value(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    if len(text) > MAX_VALUE_LENGTH:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"sha256 {digest}, {len(text):,} characters, whole in the file of the configuration"
    return text.replace("\0", "\\0")  # PostgreSQL takes no NUL
