"""Which runs a list shows and in which order: conditions and a key to sort by.

MLflow's own filter compares parameters as text, so that 9 stands above 10, and wants each key with
its kind and quoted. A condition here is `KEY OP VALUE` over any column of a run; where both sides
are numbers they are compared as numbers. All runs of a store are read for it, a thousand a call.
"""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.listing.recorded_run import RecordedRun, Value

_OPERATORS: Mapping[str, Callable[[str | float, str | float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "~": lambda value, part: str(part).casefold() in str(value).casefold(),
}
_CONDITION = re.compile(r"\s*(?P<key>[^<>=!~]+?)\s*(?P<sign>>=|<=|!=|=|>|<|~)\s*(?P<value>.*?)\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What a run must be to be shown."""

    key: str
    sign: str
    value: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `KEY OP VALUE`.

        Raises:
            ConfigError: it is none.
        """
        found = _CONDITION.fullmatch(text)
        if found is None or found["value"].startswith(tuple("<>=!~")):
            raise ConfigError(
                f"--where {text!r} is no condition; write KEY OP VALUE with one of "
                f"{' '.join(_OPERATORS)}, as in 'test/accuracy > 0.8' or 'name ~ tiny'"
            )
        return cls(**found.groupdict())

    def holds(self, run: RecordedRun) -> bool:
        """Whether a run is so; one that has no such value is not, except for `!=`."""
        value = run.value(self.key)
        if value is None:
            return self.sign == "!="
        numbers = to_number(value), to_number(self.value)
        if self.sign == "~" or None in numbers:
            return _OPERATORS[self.sign](str(value), self.value)
        return _OPERATORS[self.sign](*numbers)  # type: ignore[arg-type]


def to_number(value: Value) -> float | None:
    """A value as a number; None where it is none."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def select(
    runs: Sequence[RecordedRun], conditions: Iterable[Condition], sort: str = ""
) -> list[RecordedRun]:
    """The runs that fulfil all conditions, sorted.

    Args:
        runs: those that there are.
        conditions: to be fulfilled.
        sort: a column, from low to high; with `-` before it from high to low. Runs that have no
            value stand last. By default the order stays.

    Raises:
        ConfigError: no run has a column of that name.
    """
    chosen = list(conditions)
    require_columns(runs, [each.key for each in chosen], "--where")
    kept = [run for run in runs if all(each.holds(run) for each in chosen)]
    if not sort:
        return kept
    key, down = sort.removeprefix("-"), sort.startswith("-")
    require_columns(runs, [key], "--sort")
    having = [run for run in kept if run.value(key) is not None]
    lacking = [run for run in kept if run.value(key) is None]
    return [*sorted(having, key=lambda run: _order(run.value(key)), reverse=down), *lacking]


def require_columns(runs: Sequence[RecordedRun], keys: Iterable[str], option: str) -> None:
    """Refuse a column that no run has.

    Raises:
        ConfigError: with names that are close to it.
    """
    known = sorted({key for run in runs for key in run.columns})
    for key in keys:
        if runs and key not in known:
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            close = close or [each for each in known if key in each][:3]
            hint = f"did you mean {', '.join(close)}?" if close else "--json shows what they have"
            raise ConfigError(f"{option} {key!r}: no run has such a value; {hint}")


def differing_settings(runs: Sequence[RecordedRun]) -> list[str]:
    """Settings in which the trainings among runs differ.

    Seeds stand behind the others; last what some do not have, as the settings of another fusion.
    """
    trainings = [run.settings for run in runs if run.kind == "training"]
    keys = sorted({key for settings in trainings for key in settings})
    differing = [key for key in keys if len({settings.get(key) for settings in trainings}) > 1]
    lacking = {key for key in differing if any(key not in settings for settings in trainings)}
    return sorted(differing, key=lambda key: (key in lacking, key.endswith("seed")))


def headline_metrics(runs: Sequence[RecordedRun]) -> list[str]:
    """Metrics that say most of runs: the accuracy of each evaluation, then losses."""
    known = sorted({key for run in runs for key in run.metrics}, key=lambda key: (len(key), key))
    found = [
        key
        for name in ("accuracy", "consistency")
        for key in known
        if re.fullmatch(f"[^/]+/{name}", key)
    ]
    found += [key for key in ("validation_loss", "loss") if key in known]
    return found


def short_names(keys: Sequence[str]) -> list[str]:
    """The end of each dotted key, as long as it takes to tell it from the others."""
    return [_short(key, keys) for key in keys]


def _short(key: str, keys: Sequence[str]) -> str:
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        fitting = [each for each in keys if f".{each}".endswith(f".{end}")]
        if len(fitting) == 1 and not parts[start].isdecimal():
            return end
    return key


def _order(value: Value) -> tuple[bool, float, str]:
    number = to_number(value)
    return (number is None, number or 0.0, str(value))
