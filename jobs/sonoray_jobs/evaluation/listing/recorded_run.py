"""The runs that MLflow has of this program, each with what made it and what it reached.

A run is a training with its evaluations, whose metrics stand in it under the name of the split; the
parent of an ablation or a sweep, below which trainings stand; or the results of a model that was
trained elsewhere. A training that was killed stays RUNNING in MLflow for ever. Whether one of this
workspace is still at it is told by the lock in its folder, which its process holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.training.unfinished import LOCK

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store

Value = str | float | int | None
"""Of a column; None where a run has none."""

KINDS: Mapping[str, str] = {
    "sonoray.ablation": "ablation",
    "sonoray.sweep": "sweep",
    "sonoray.run": "training",
    "sonoray.model": "evaluation",
}
"""By the tag that says so; a training below an ablation bears that of its parent too."""

STANDS_ON = ("dataset", "clip", "sam", "language")
"""Tags `sonoray.<name>` that hold the digests of what a training stands on."""
_NO_SETTINGS = ("dataset.", "ingest.", "source.")
"""Beginnings of the parameters that say where the data came from."""
_UNDEFINED = 1e308
"""MLflow keeps an infinite value as 1.8e308, which would sort as the best."""
_PARENT = "mlflow.parentRunId"
_PAGE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """One run, as MLflow has it."""

    run_id: str
    name: str
    """What MLflow's pages call it."""
    kind: str
    state: str
    """`finished`, `failed`, `killed`, `running`; `stopped` where its process is gone."""
    experiment: str
    started: datetime | None
    ended: datetime | None
    parent: str = ""
    """Id of the run above it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What made it, by dotted key."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Where its dataset came from, by dotted key."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Last values; None where a metric is undefined."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def training(self) -> str:
        """Name of the training, which `--run` takes; empty of other kinds."""
        return self.tags.get("sonoray.run", "")

    @property
    def dataset(self) -> str:
        """Name of its dataset; empty where nobody wrote it down."""
        return self.data.get("dataset.name", "")

    @property
    def minutes(self) -> float | None:
        """From its beginning to its end; None while it goes on."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds() / 60

    @property
    def stands_on(self) -> dict[str, str]:
        """Digests of dataset and parts, and the commit of the code."""
        digests = {name: self.tags.get(f"sonoray.{name}", "") for name in STANDS_ON}
        digests["commit"] = self.tags.get("mlflow.source.git.commit", "")
        return {name: value for name, value in digests.items() if value}

    @property
    def facts(self) -> dict[str, Value]:
        """What is known of every run, as columns."""
        digests = self.stands_on
        digests["dataset_key"] = digests.pop("dataset", "")
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "started": None if self.started is None else f"{self.started.astimezone():%F %R}",
            "minutes": None if self.minutes is None else round(self.minutes, 1),
            "dataset": self.dataset or None,
            "experiment": self.experiment,
            "training": self.training or None,
            "run_id": self.run_id,
            "parent": self.parent or None,
            "user": self.tags.get("mlflow.user"),
            "command": self.tags.get("sonoray.command"),
            "failures": self.tags.get("sonoray.failures"),
            **{
                "dataset_key" if name == "dataset" else name: each for name, each in digests.items()
            },
        }

    @property
    def columns(self) -> set[str]:
        """Names of all that `value` knows."""
        return {*self.facts, *self.metrics, *self.settings, *self.data, *self.tags}

    def value(self, key: str) -> Value:
        """A column: a fact, a metric, a setting or a tag, in this order; None where it has none."""
        for values in (self.facts, self.metrics, self.settings, self.data, self.tags):
            if key in values:
                return values[key]
        return None

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        times = {
            name: None if time is None else time.isoformat(timespec="seconds")
            for name, time in (("started", self.started), ("ended", self.ended))
        }
        named = ("name", "kind", "state", "minutes", "experiment", "training", "run_id", "parent")
        return {
            **{name: self.facts[name] for name in named},
            **times,
            "dataset": self.dataset or None,
            "user": self.facts["user"],
            "command": self.facts["command"],
            "failures": int(self.tags.get("sonoray.failures", 0)),
            "stands_on": self.stands_on,
            "settings": dict(self.settings),
            "data": dict(self.data),
            "metrics": dict(self.metrics),
        }


def read_runs(store: "Store", workspace: Workspace, experiment: str = "") -> list[RecordedRun]:
    """Return the runs of this program, the newest first.

    Args:
        store: where they are recorded; those of other workspaces may be there too.
        workspace: whose trainings are looked at for being alive.
        experiment: those of one MLflow experiment; by default of all.

    Raises:
        TrackingError: the store fails.
    """
    folders = {
        file.read_text(encoding="utf-8").strip(): file.parent
        for file in workspace.runs.glob(f"*/{RUN_ID_FILE}")
    }
    found = []
    with store.guard("cannot list its runs"):
        names = {
            each.experiment_id: each.name
            for each in store.client.search_experiments()
            if experiment in ("", each.name)
        }
        for run in _pages(store, list(names)):
            recorded = to_recorded(run, names[run.info.experiment_id])
            if recorded is None:
                continue
            folder = folders.get(recorded.run_id)
            if recorded.state == "running" and folder is not None and not _is_held(folder):
                recorded = replace(recorded, state="stopped")
            found.append(recorded)
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda each: each.started or oldest, reverse=True)


def to_recorded(run: Any, experiment: str) -> RecordedRun | None:  # noqa: ANN401 - an mlflow Run
    """Read one of MLflow's runs; None where it is not of this program."""
    tags = dict(run.data.tags)
    kind = next((kind for tag, kind in KINDS.items() if _is_own(tag, tags)), None)
    if kind is None:
        return None
    data = {key for key in run.data.params if key.startswith(_NO_SETTINGS)}
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        kind=kind,
        state=run.info.status.lower(),
        experiment=experiment,
        started=_time(run.info.start_time),
        ended=_time(run.info.end_time),
        parent=tags.get(_PARENT, ""),
        settings={key: run.data.params[key] for key in sorted({*run.data.params} - data)},
        data={key: run.data.params[key] for key in sorted(data)},
        metrics={
            key: value if abs(value) < _UNDEFINED else None
            for key, value in sorted(run.data.metrics.items())
        },
        tags=tags,
    )


def _is_own(tag: str, tags: Mapping[str, str]) -> bool:
    """Whether a tag tells the kind of a run; children bear that of their parent too."""
    return tag in tags and (tag in ("sonoray.run", "sonoray.model") or "sonoray.run" not in tags)


def _pages(store: "Store", experiment_ids: list[str]) -> Iterator[Any]:
    token = None
    while experiment_ids:
        page = store.client.search_runs(experiment_ids, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_held(folder: Path) -> bool:
    """Whether a process is at a training; of what has no lock, such as an ablation, assumed."""
    if not (folder / LOCK).is_file():
        return True
    try:
        with FileLock(folder / LOCK, fallback_to_soft=False).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
