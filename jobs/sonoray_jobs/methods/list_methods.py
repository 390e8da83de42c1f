"""The list of methods as a table, for `sonoray methods` and for docs/methods.md."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import ConfigError
from sonoray.metrics.tables import Table
from sonoray_jobs.methods.known_methods import KINDS, Method, known_methods


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """The methods that were asked for."""

    methods: Sequence[Method]

    def lines(self) -> list[str]:
        """What a person reads: a block for each kind."""
        lines: list[str] = []
        for kind in dict.fromkeys(method.kind for method in self.methods):
            lines += ["", kind]
            for each in self.methods:
                if each.kind == kind:
                    lines += [
                        f"  {each.name}{' (default)' if each.is_default else ''}: {each.does}",
                        f"    on: {each.switch.replace('`', '')}",
                        f"    needs {each.inputs}; cost: {each.cost}".replace("`", ""),
                    ]
                    lines += [f"    paper: {', '.join(_papers(each))}"] if each.papers else []
        return lines[1:]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"methods": [asdict(method) for method in self.methods]}


def run(*, kinds: Sequence[str] = ()) -> Listed:
    """List the methods of some kinds; of none: all.

    Raises:
        ConfigError: a kind is unknown.
    """
    if unknown := sorted(set(kinds).difference(KINDS)):
        raise ConfigError(f"--kind {unknown[0]!r} is unknown; use one of {', '.join(KINDS)}")
    found = known_methods()
    return Listed(methods=[each for each in found if not kinds or each.kind in kinds])


def methods_table(methods: Sequence[Method]) -> Table:
    """The table of docs/methods.md."""
    return Table(
        header=("method", "kind", "paper", "needs", "cost", "turned on by"),
        rows=tuple(
            (
                f"`{each.name}`",
                each.kind,
                ", ".join(_papers(each)) or "-",
                each.inputs,
                each.cost,
                each.switch + (", the default" if each.is_default else ""),
            )
            for each in methods
        ),
    )


def _papers(method: Method) -> list[str]:
    return [f"arXiv {paper}" for paper in method.papers]
