"""List what MLflow has: trainings with their evaluations, ablations; or put some side by side.

Without names it is a list, one run a line, with the settings in which the listed trainings differ.
With names it is a table with one run a column: what they stand on, in which settings they differ,
and all their metrics. Intervals and p values are not MLflow's; `sonoray compare` computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sonoray.errors import ConfigError, DataError
from sonoray.metrics.tables import Table
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.listing.recorded_run import RecordedRun, Value, read_runs
from sonoray_jobs.evaluation.listing.selection import (
    Condition,
    differing_settings,
    headline_metrics,
    require_columns,
    select,
    short_names,
)
from sonoray_jobs.outputs.named_runs import NamedRun, match_run

DEFAULT_LIMIT = 50
_MOST_METRICS, _MOST_SETTINGS = 4, 4
"""Columns of a list that shows what it finds; `--columns` takes others."""
_LONGEST_CELL = 28
_FACTS = ("kind", "state", "started", "minutes")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedRuns:
    """The runs that were asked for."""

    runs: Sequence[RecordedRun]
    total: int
    """How many fit, those that are not shown among them."""
    how_to_open: str
    """The command or the address that shows them in a browser."""
    columns: Sequence[str] = ()
    """Those that were asked for; by default what says most."""
    together: bool = False
    """Whether they stand side by side."""

    @property
    def differing(self) -> list[str]:
        """Settings in which the trainings among them differ."""
        return differing_settings(self.runs)

    def lines(self) -> list[str]:
        """What a person reads."""
        if not self.runs:
            return ["no run fits", f"all runs: {self.how_to_open}"]
        shown = self._side_by_side() if self.together else self._list()
        return [*shown, "", f"in a browser: {self.how_to_open}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "runs": [run.to_json() for run in self.runs],
            "total": self.total,
            "differing": list(self.differing),
            "how_to_open": self.how_to_open,
        }

    def _list(self) -> list[str]:
        metrics = headline_metrics(self.runs)
        facts = [key for key in _FACTS if key != "kind" or len({run.kind for run in self.runs}) > 1]
        if len({run.dataset for run in self.runs}) > 1:
            facts.append("dataset")
        settings = self.differing
        titles = dict(zip(settings, short_names(settings), strict=True))
        keys = self.columns or [*facts, *metrics[:_MOST_METRICS], *settings[:_MOST_SETTINGS]]
        header = ("name", *(key if self.columns else titles.get(key, key) for key in keys))
        cell = _cell if self.columns else _short_cell
        rows = tuple((run.name, *(cell(run.value(key)) for key in keys)) for run in self.runs)
        lines = Table(header=header, rows=rows).text()
        notes = []
        if self.total > len(self.runs):
            notes.append(f"and {self.total - len(self.runs)} more; --limit N, or --where")
        if not self.columns:
            hidden = [*metrics[_MOST_METRICS:], *settings[_MOST_SETTINGS:]]
            if hidden:
                notes.append(f"for --columns, not shown: {', '.join(hidden)}")
        return [*lines, *([""] if notes else []), *notes]

    def _side_by_side(self) -> list[str]:
        several = len(self.runs) > 1
        settings = self.differing if several else list(self.runs[0].settings)
        metrics = sorted({key for run in self.runs for key in run.metrics})
        digests = sorted({key for run in self.runs for key in run.stands_on})
        shown = {
            "run": ("training", "state", "started", "minutes", "dataset", "user"),
            "stands on": digests,
            "settings that differ" if several else "settings": settings,
            "metrics": metrics,
        }
        rows = []
        for title, keys in shown.items():
            rows.append((title, *("" for _ in self.runs)))
            for key in keys:
                column = "dataset_key" if (title, key) == ("stands on", "dataset") else key
                rows.append((f"  {key}", *(_cell(run.value(column)) for run in self.runs)))
        table = Table(header=("", *(run.name for run in self.runs)), rows=tuple(rows)).text()
        trainings = [run.training for run in self.runs if run.training]
        if len(trainings) == len(self.runs) == 2:
            table += ["", f"question by question: sonoray compare {' '.join(trainings)}"]
        return table


def run(
    *,
    workspace: Workspace,
    names: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str = "",
    columns: Sequence[str] = (),
    limit: int = DEFAULT_LIMIT,
    experiment: str = "",
    tracking_uri: str | None = None,
) -> ListedRuns:
    """List runs, or put those that are named side by side.

    Args:
        workspace: its MLflow store is read where the environment names no other.
        names: of runs to put side by side: title, training or MLflow run id, or a beginning.
        where: conditions on what is listed.
        sort: a column, `-` before it for the highest first; by default the newest are first.
        columns: what a list shows of each run.
        limit: most runs that are listed.
        experiment: of one MLflow experiment alone.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        ConfigError: a condition or a column cannot be read, or does not go with names.
        DataError: a name fits no run or several.
        TrackingError: MLflow cannot be reached.
    """
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.delivery import deliver_waiting

    conditions = [Condition.read(text) for text in where]
    if names and (where or sort or columns):
        raise ConfigError(
            f"{' '.join(names)}: runs that are named are shown side by side; --where, --sort and "
            "--columns are for a list, leave one out"
        )
    store = open_store(workspace, tracking_uri)
    deliver_waiting(store, workspace.runs)
    found = read_runs(store, workspace, experiment)
    if experiment and not found:
        raise DataError(
            f"MLflow has no runs in an experiment {experiment!r}; leave --experiment out"
        )
    if names:
        chosen = [_named(found, name) for name in names]
        total = len(chosen)
    else:
        require_columns(found, columns, "--columns")
        fitting = select(found, conditions, sort)
        chosen, total = fitting[:limit], len(fitting)
    return ListedRuns(
        runs=chosen,
        total=total,
        how_to_open=store.how_to_open,
        columns=columns,
        together=bool(names),
    )


def _named(runs: Sequence[RecordedRun], wanted: str) -> RecordedRun:
    known = [
        NamedRun(name=each.training or each.name, run_id=each.run_id, title=each.name)
        for each in runs
    ]
    found = match_run(known, wanted)
    return next(each for each in runs if each.run_id == found.run_id)


def _cell(value: Value) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short_cell(value: Value) -> str:
    """A list of names would be wider than all other columns; `--columns` shows it whole."""
    text = _cell(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"
