"""Sends an outbox to MLflow: the call of each entry, and which run they belong to.

Sending is in order and stops at the first call that fails; the next one begins there. A run that
the store does not know any more (deleted, or another server) is made anew, from the beginning of
the file. What MLflow refuses for good, such as a name that it does not take, is logged and left
out: it must not hold up the rest.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from sonoray.config.canonical import content_hash
from sonoray.errors import TrackingError
from sonoray.tracking.connection import Store, impatient
from sonoray.tracking.outbox import OUTBOX, Entry, Outbox, OutboxState
from sonoray.tracking.params import (
    MAX_METRICS_PER_CALL,
    MAX_PARAMS_PER_CALL,
    batches,
    flatten_params,
)
from sonoray.tracking.run_id import RunIdFile

CONFIG_TAG = "sonoray.config"
ANSWERS_FILE = "validation_answers.json"
"""Sample answers of all validations, as a table that MLflow's page shows and compares."""
_TABLES_TAG = "mlflow.loggedArtifacts"
FAILURES_TAG = "sonoray.failures"
_IDENTITY_TAG = "sonoray.identity"
_TIMEOUT_S = 10
_REFUSED = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
"""What MLflow answers where trying again does not help: a value, or a run that was deleted."""
_PATIENCE_S = 10
"""How long a command waits for a training that sends values itself."""

_logger = logging.getLogger(__name__)


def outbox_of(storage_path: str | Path, name: str) -> Outbox:
    """The outbox of a training, beside its checkpoints."""
    return Outbox(Path(storage_path) / name / OUTBOX)


def deliver(outbox: Outbox, store: Store) -> None:
    """Send what waits, in order; one process at a time.

    Raises:
        TrackingError: a call failed; what was not sent waits for the next time.
    """
    with outbox.sending():
        _send(outbox, store, may_begin_anew=True)


def deliver_waiting(store: Store, runs: Path) -> None:
    """Send what the trainings of a workspace have left, those that run now too.

    Where nothing waits the store is not asked.

    Args:
        store: where they belong; may be away.
        runs: folder that holds one folder a training.
    """
    for folder in sorted(runs.glob(f"*/{OUTBOX}")):
        outbox = Outbox(folder)
        if not outbox.num_waiting():
            continue
        try:
            with outbox.sending().acquire(timeout=_PATIENCE_S):
                _send(outbox, store.again(), may_begin_anew=True)
        except Timeout:
            continue
        except TrackingError as error:
            _logger.warning("values of %s still wait for MLflow: %s", folder.parent.name, error)
            return
        outbox.clear()
        _logger.info("values of %s that had waited are in MLflow now", folder.parent.name)


def _send(outbox: Outbox, store: Store, *, may_begin_anew: bool) -> None:
    from mlflow.exceptions import MlflowException

    run = _Run(outbox, store)
    for entry, end in _in_calls(outbox):
        with impatient(_TIMEOUT_S), store.guard("does not take the values of a run"):
            try:
                _CALLS[entry["kind"]](run, entry)
            except MlflowException as error:
                if error.error_code not in _REFUSED:
                    raise
                if may_begin_anew and run.id and find_run(store, run.id) is None:
                    _logger.warning("MLflow does not know run %s any more: a new one", run.id)
                    run.forget()
                    outbox.note(OutboxState())
                    _send(outbox, store, may_begin_anew=False)
                    return
                _logger.warning("MLflow refuses %s of run %s: %s", entry["kind"], run.id, error)
        outbox.note(replace(outbox.state(), sent_bytes=end))


def _in_calls(outbox: Outbox) -> Iterator[tuple[Entry, int]]:
    """What waits, with neighbouring values joined to as many as a call takes."""
    joined: dict[str, Any] | None = None
    last = 0
    for entry, end in outbox.entries(outbox.state().sent_bytes):
        if joined is not None:
            points = joined["points"] + entry.get("points", [])
            if entry["kind"] == "metrics" and len(points) <= MAX_METRICS_PER_CALL:
                joined = joined | {"points": points, "tags": joined["tags"] | entry["tags"]}
                last = end
                continue
            yield joined, last
            joined = None
        if entry["kind"] == "metrics":
            joined, last = dict(entry), end
        else:
            yield entry, end
    if joined is not None:
        yield joined, last


class _Run:
    """The run that an outbox belongs to: found or made when the first entry asks for it."""

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self.outbox = outbox
        self.store = store
        self.client = store.client
        self._file = RunIdFile(outbox.folder.parent.parent, outbox.folder.parent.name)
        self.id = self._file.read() or ""

    def forget(self) -> None:
        """Let the next beginning make another run."""
        self._file.remove()

    def begin(self, entry: Entry) -> None:
        """Continue the run, or find it by its identity, or make it."""
        found = None if not self.id else find_run(self.store, self.id)
        if self.id and found is None:
            _logger.warning(
                "MLflow has no run %s, named by %s; a new one", self.id, self._file.path
            )
            self.forget()
            self.outbox.note(replace(self.outbox.state(), identity=""))
        experiment = experiment_id(self.store, entry["experiment"])
        identity = self.outbox.identity()
        if found is None:
            wanted = f"tags.`{_IDENTITY_TAG}` = '{identity}'"
            matches = self.client.search_runs([experiment], filter_string=wanted, max_results=1)
            found = matches[0] if matches else None
        if found is None:
            found = self.client.create_run(
                experiment,
                run_name=entry["title"],
                start_time=entry["time_ms"],
                tags={_IDENTITY_TAG: identity},
            )
        self.id = found.info.run_id
        self._file.write(self.id)
        _set_running(self.client, self.id)

    def config(self, entry: Entry) -> None:
        """Log settings as parameters and as a file, and their hash as a tag.

        MLflow's parameters cannot change, so a continued run keeps those of its first attempt and
        gets a further `config-<hash>.json`; the tag names the newest.
        """
        from mlflow.entities import Param, RunTag

        run = self.client.get_run(self.id)
        digest = content_hash(entry["config"])[:12]
        if run.data.tags.get(CONFIG_TAG) != digest:
            self.client.log_dict(self.id, entry["config"], f"config-{digest}.json")
        params = flatten_params(entry["params"])
        known = run.data.params
        changed = sorted(key for key, value in params.items() if known.get(key, value) != value)
        if changed:
            _logger.warning("run %s continues with other values of %s", self.id, ", ".join(changed))
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for batch in batches(new, MAX_PARAMS_PER_CALL):
            self.client.log_batch(self.id, params=batch)
        self.client.log_batch(self.id, tags=[RunTag(CONFIG_TAG, digest)])

    def dataset(self, entry: Entry) -> None:
        """Say on which dataset the run works, in MLflow's own column."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = entry["source"] or "unknown"
        told = Dataset(
            name=entry["name"], digest=entry["digest"][:36], source_type="sonoray", source=source
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.id, [DatasetInput(told, tags)])

    def tags(self, entry: Entry) -> None:
        """Set tags."""
        self._set_tags(entry["tags"])

    def metrics(self, entry: Entry) -> None:
        """Add values, and tags that belong to them."""
        from mlflow.entities import Metric

        points = [Metric(*point) for point in entry["points"]]
        for batch in batches(points, MAX_METRICS_PER_CALL):
            self.client.log_batch(self.id, metrics=batch)
        self._set_tags(entry["tags"])

    def answers(self, entry: Entry) -> None:
        """Put the sample answers of a validation into the table, in place of those of its step."""
        columns = ["step", *entry["rows"][0]]
        known = self._read_answers()
        rows = [row for row in known["data"] if row[0] != entry["step"]]
        rows += [[entry["step"], *row.values()] for row in entry["rows"]]
        rows.sort(key=lambda row: row[0])
        self.client.log_dict(self.id, {"columns": columns, "data": rows}, ANSWERS_FILE)
        self._set_tags({_TABLES_TAG: json.dumps([{"path": ANSWERS_FILE, "type": "table"}])})

    def _read_answers(self) -> dict[str, Any]:
        """The table as it is in the run; empty where there is none."""
        names = {each.path for each in self.client.list_artifacts(self.id)}
        if ANSWERS_FILE not in names:
            return {"data": []}
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(self.id, ANSWERS_FILE, folder)
            table: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return table

    def failure(self, entry: Entry) -> None:
        """Count a failed attempt and name its kind."""
        self._set_tags({FAILURES_TAG: entry["number"], "sonoray.last_failure": entry["kinds"]})

    def end(self, entry: Entry) -> None:
        """Close the run."""
        self.client.set_terminated(self.id, entry["status"], entry["time_ms"])

    def _set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        labels = [RunTag(key, str(value)) for key, value in tags.items()]
        for batch in batches(labels, MAX_PARAMS_PER_CALL):
            self.client.log_batch(self.id, tags=batch)


_CALLS: Mapping[str, Callable[[_Run, Entry], None]] = {
    "begin": _Run.begin,
    "config": _Run.config,
    "dataset": _Run.dataset,
    "tags": _Run.tags,
    "metrics": _Run.metrics,
    "answers": _Run.answers,
    "failure": _Run.failure,
    "end": _Run.end,
}


def find_run(store: Store, run_id: str) -> Any | None:  # noqa: ANN401 - an mlflow Run
    """Return a run, None where the store does not know it or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def experiment_id(store: Store, name: str) -> str:
    """Return the id of an experiment, which is made where it does not exist.

    Raises:
        TrackingError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        root = store.artifact_root
        location = None if root is None else (root / name).as_uri()
        with suppress(MlflowException):  # another process was first, or what follows says more
            return str(store.client.create_experiment(name, artifact_location=location))
        experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        raise TrackingError(f"MLflow experiment {name!r} cannot be made; try another `experiment`")
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted; restore it with: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _set_running(client: Any, run_id: str) -> None:  # noqa: ANN401 - MlflowClient
    """Mark a run as running, without the end of an attempt before.

    MLflow's client has no call that takes an end time back: `update_run` leaves it, and a run would
    be RUNNING with the end of its failed attempt. Its store's call, which `update_run` makes too,
    takes 0, which MLflow shows as none.
    """
    from mlflow.entities import RunStatus

    client._tracking_client.store.update_run_info(run_id, RunStatus.RUNNING, 0, None)
