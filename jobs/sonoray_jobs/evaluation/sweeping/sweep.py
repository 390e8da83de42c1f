"""Sweep: search settings of a road for the best value of a metric, through Ray Tune.

Each trial is a training of its own, named by what decides it, so that `--run` takes it and a second
sweep over the same points trains nothing anew. Ray Tune keeps what it knows in the sweep's folder,
and the same command goes on where it stopped, with the trials that failed too. In MLflow the
sweep is a parent run with the report; the trainings stand below it.
"""

import io
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.children import Shared
from sonoray_jobs.evaluation.ablation.parallel import num_at_once, place, reason_of
from sonoray_jobs.evaluation.sweeping.search import OBJECTIVE, Search
from sonoray_jobs.evaluation.sweeping.space import Field
from sonoray_jobs.evaluation.sweeping.swept import (
    FAILED,
    FINISHED,
    STOPPED,
    Swept,
    Trial,
    ordered,
)
from sonoray_jobs.evaluation.sweeping.trial import (
    IS_DONE,
    RUN_ID,
    STEP,
    TRAINING,
    TrialPlan,
    shown_point,
    trainable,
    trial_number,
)
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.deepspeed_ops import prebuild_communication
from sonoray_jobs.training.unfinished import clear_working_folder

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store

_TUNE = "tune"
"""Folder in which Ray Tune keeps its state."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSweep:
    """What a sweep would do."""

    name: str
    search: Search
    fields: Sequence[Field]

    def lines(self) -> list[str]:
        """What a person reads."""
        number = self.search.num_trials(tuple(self.fields))
        return [
            f"{self.name}: {number} trials by {self.search.method} for the "
            f"{self.search.direction}imum of {self.search.metric}",
            *(f"  {field.key}: {field.shown}" for field in self.fields),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "name": self.name,
            "command": self.search.command,
            "trials": self.search.num_trials(tuple(self.fields)),
            "over": {field.key: field.shown for field in self.fields},
        }


def plan(*, road: RoadConfig, search: Search) -> PlannedSweep:
    """Check a sweep; starts nothing.

    Raises:
        ConfigError: the search does not fit the road.
    """
    road = place(road)
    return PlannedSweep(name=search.name(road), search=search, fields=search.fields(road))


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    search: Search,
    parallel: int | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Swept:
    """Run all trials, or go on with them, and report.

    Args:
        workspace: where everything lies.
        road: what the trials vary.
        search: over what, how, and for what.
        parallel: most trials at once; by default as many as the cluster has room for.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        ConfigError: the search does not fit the road.
        DataError: the dataset is missing and cannot be generated.
        ClusterError: the cluster cannot be reached or is too small.
        TrackingError: MLflow cannot be reached.
    """
    road = place(road)
    fields = search.fields(road)
    is_generated = search.dataset == "phantom" and not _is_ingested(workspace, search.dataset)

    import ray

    from sonoray.cluster.session import ray_session
    from sonoray.cluster.step_board import StepBoard
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.origin import origin_tags
    from sonoray.tracking.runs import child_tags, held_run, log_results, terminate

    store = open_store(workspace, tracking_uri)
    name = search.name(road)
    folder = workspace.runs / name
    with held_run(
        store,
        workspace.runs,
        name,
        config=road.model_dump(mode="json"),
        params={"over": list(search.over), "search": search.method, "metric": search.metric},
        tags={**origin_tags(), "sonoray.sweep": name, "sonoray.command": search.command},
        experiment=road.experiment,
    ) as parent:
        tags = child_tags(parent, {"sweep": name})
        with ray_session(address):
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            shared = Shared(dataset=search.dataset, road=road, is_generated=is_generated)
            for line in shared.prepare(workspace, address):
                logger.info("%s", line)
            prebuild_communication()
            board = StepBoard.start()
            plan = TrialPlan(
                workspace=workspace,
                folder=folder,
                road=road,
                fields=fields,
                search=search,
                is_generated=is_generated,
                tracking_uri=store.uri,
                tags=tags,
                board=board,
            )
            at_once = num_at_once(road, resources, parallel)
            logger.info("%d trials, %d at once", search.num_trials(fields), at_once)
            with board.watching():
                results = _fit(plan, at_once)
        trials = _close(store, workspace, [_trial(each, fields) for each in results], tags)
        swept = Swept(
            name=name,
            search=search,
            fields=fields,
            trials=ordered(trials, search.direction),
            parent_run_id=parent,
            folder=folder,
        )
        swept.write()
        best = {} if swept.best is None else {f"best/{search.metric}": swept.best.objective}
        log_results(store, parent, best, {path.name: path for path in swept.files})
    if swept.exit_code:
        terminate(store, parent, "FAILED")
    return swept


def _is_ingested(workspace: Workspace, dataset: str) -> bool:
    return dataset in workspace.dataset_names() and not workspace.is_synthetic(dataset)


def _fit(plan: TrialPlan, at_once: int) -> Sequence[Any]:
    """Let Ray Tune run the trials, or those that its folder says are left; returns its results."""
    from ray import tune

    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the values
        # Ctrl-C ends the sweep here; Ray Tune would return what it has as if it were all
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    place_of_state = str(plan.folder / _TUNE)
    if tune.Tuner.can_restore(place_of_state):
        tuner = tune.Tuner.restore(place_of_state, trainable(plan), restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable(plan),
            param_space=plan.search.param_space(plan.fields),
            tune_config=plan.search.tune_config(plan.fields, at_once),
            run_config=tune.RunConfig(name=_TUNE, storage_path=str(plan.folder), verbose=0),
        )
    with redirect_stdout(io.StringIO()):  # Ray Tune prints a head, however silent it shall be
        results = tuner.fit()
    return [results[place] for place in range(len(results))]


def _trial(result: Any, fields: tuple[Field, ...]) -> Trial:  # noqa: ANN401 - Ray Tune's Result
    """Read what Ray Tune knows of a trial."""
    told: Mapping[str, Any] = result.metrics or {}
    state = FAILED if result.error else FINISHED if told.get(IS_DONE) else STOPPED
    return Trial(
        number=trial_number(result.path),
        point=dict(result.config),
        settings=shown_point(fields, result.config),
        state=state,
        objective=None if told.get(OBJECTIVE) is None else float(told[OBJECTIVE]),
        step=int(told.get(STEP, 0)),
        training=str(told.get(TRAINING, "")),
        run_id=str(told.get(RUN_ID, "")),
        reason=reason_of(result.error) if result.error else "",
    )


def _close(
    store: "Store", workspace: Workspace, trials: Sequence[Trial], tags: Mapping[str, str]
) -> Sequence[Trial]:
    """Put trainings that were made before below the sweep; end the runs of those stopped.

    Nobody goes on with a training that was ended early: its checkpoints go.
    """
    from sonoray.tracking.run_id import RunIdFile
    from sonoray.tracking.runs import end_killed, nest

    finished = {trial.training for trial in trials if trial.state == FINISHED}
    for trial in trials:
        if trial.state == FINISHED:
            nest(store, trial.run_id, tags)
        elif trial.state == STOPPED and trial.training not in {"", *finished}:
            why = {"sonoray.stopped_early": f"at step {trial.step} by {tags['sonoray.sweep']}"}
            known = RunIdFile(workspace.runs, trial.training).read()
            run = store.client.get_run(known) if known else None
            if run is None or "sonoray.stopped_early" not in run.data.tags:
                end_killed(store, workspace.runs, trial.training, why)
            clear_working_folder(workspace.runs / trial.training)
    return trials
