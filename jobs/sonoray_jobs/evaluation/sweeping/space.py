"""The settings that a sweep searches, each with its values: `KEY:[A, B]` or `KEY:LOW..HIGH`.

A list is TOML and may hold anything that the setting takes. A range of whole numbers holds whole
numbers, any other real ones; `log` before it spreads them by their logarithm, as learning rates
want it. Values of a list travel by their JSON text, because Optuna's categories are plain values.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig

Point = Mapping[str, Any]
"""By setting: its value; of a list the JSON text of one of its entries."""

_RANGE = re.compile(r"(?P<log>log\s+)?(?P<low>[^\s\[\]]+?)\s*\.\.\s*(?P<high>[^\s\[\]]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One setting that is searched."""

    key: str
    choices: tuple[str, ...] = ()
    """JSON texts of its values; empty of a range."""
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `KEY:SPEC`.

        Raises:
            ConfigError: it is no such thing, or holds fewer than two values.
        """
        key, _, spec = (part.strip() for part in text.partition(":"))
        if key and spec.startswith("["):
            try:
                values = tomllib.loads(f"v = {spec}")["v"]
            except tomllib.TOMLDecodeError as error:
                raise ConfigError(f"--over {text!r}: {error}; write it as [4, 8, 16]") from None
            choices = tuple(json.dumps(value, ensure_ascii=False) for value in values)
            if len(set(choices)) < max(2, len(choices)):
                raise ConfigError(f"--over {text!r} must list two or more values, each once")
            return cls(key=key, choices=choices)
        found = _RANGE.fullmatch(spec) if key else None
        try:
            low, high = (_number(found[end]) if found else None for end in ("low", "high"))
        except ValueError:
            low = high = None
        if low is None or high is None:
            raise ConfigError(
                f"--over {text!r} is no KEY:[A, B] and no KEY:LOW..HIGH; write it like "
                "model.lora.rank:[4, 8], train.seed:0..9 or train.stages.1.learning_rate:log "
                "1e-4..1e-2"
            )
        is_log = found is not None and bool(found["log"])
        if not low < high or (is_log and low <= 0):
            raise ConfigError(
                f"--over {text!r} must go from a lower to a higher number"
                f"{', both above 0' if is_log else ''}"
            )
        is_whole = isinstance(low, int) and isinstance(high, int)
        return cls(key=key, low=low, high=high, is_log=is_log, is_whole=is_whole)

    def value(self, drawn: Any) -> Any:  # noqa: ANN401 - a JSON value
        """The setting's value of what a point has."""
        return json.loads(drawn) if self.choices else drawn

    @property
    def ends(self) -> list[Any]:
        """What a point may have, at its extremes."""
        if self.choices:
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.is_whole else [self.low, self.high]

    @property
    def shown(self) -> str:
        """What it ranges over, as a person reads it."""
        if self.choices:
            return ", ".join(self.choices)
        low, high = self.ends
        return f"{low:g} to {high:g}{', by its logarithm' if self.is_log else ''}"

    def domain(self, *, grid: bool = False) -> Any:  # noqa: ANN401 - a Ray Tune domain
        """The same for Ray Tune."""
        from ray import tune

        if self.choices:
            return tune.grid_search(list(self.choices)) if grid else tune.choice(self.choices)
        if self.is_whole:
            make = tune.lograndint if self.is_log else tune.randint
            return make(int(self.low), int(self.high) + 1)
        return (tune.loguniform if self.is_log else tune.uniform)(self.low, self.high)

    def distribution(self) -> Any:  # noqa: ANN401 - an Optuna distribution
        """The same for Optuna's pictures."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return FloatDistribution(self.low, self.high, log=self.is_log)


def _number(text: str) -> float | int:
    """Read a number; whole where it is written so.

    Raises:
        ValueError: it is none.
    """
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def read_fields(texts: Sequence[str], road: RoadConfig) -> tuple[Field, ...]:
    """Read all `--over`, and try each extreme on the road before anything starts.

    Raises:
        ConfigError: one is malformed, named twice, or a value does not fit the road.
    """
    fields = tuple(Field.read(text) for text in texts)
    keys = [field.key for field in fields]
    if not keys or len(set(keys)) < len(keys):
        raise ConfigError("--over must name one or more settings, each once: --over KEY:[A, B]")
    for field in fields:
        for drawn in field.ends:
            road_at(road, (field,), {field.key: drawn})
    return fields


def road_at(road: RoadConfig, fields: Sequence[Field], point: Point) -> RoadConfig:
    """The road with the settings of a point.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    values = road.model_dump(mode="json")
    shown = ", ".join(f"{key}={value}" for key, value in point.items())
    for field in fields:
        *path, last = field.key.split(".")
        inside: Any = values
        try:
            for part in path:
                inside = inside[int(part) if isinstance(inside, list) else part]
            inside[int(last) if isinstance(inside, list) else last] = field.value(point[field.key])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ConfigError(
                f"--over {field.key}: the configuration has no such setting; see --dry-run"
            ) from None
    return validate_config(RoadConfig, values, f"--over {shown}")
