"""One trial of a sweep: the road at a point, trained and judged, inside a Ray Tune trial.

All that it does are the road's own content-addressed jobs. A trial that is begun again goes on from
its last checkpoint, and two trials that draw the same settings are one training: the second waits
for it. While it trains, its validations go to Ray Tune, which may end it early.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.evaluation.ablation.children import Shared
from sonoray_jobs.evaluation.predictions import headlines
from sonoray_jobs.evaluation.sweeping.search import EVALUATED, OBJECTIVE, Search
from sonoray_jobs.evaluation.sweeping.space import Field, Point, road_at
from sonoray_jobs.outputs.find import find_parts, training_name, training_stage
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train

if TYPE_CHECKING:
    from sonoray.cluster.step_board import StepBoard

TRAINING, RUN_ID, STEP, IS_DONE = "training", "run_id", "step", "is_done"
"""What a trial reports besides the objective."""

_NUMBER = re.compile(r"_(\d+)_(?=[a-z])")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What all trials of a sweep share; travels to their processes."""

    workspace: Workspace
    folder: Path
    """Of the sweep."""
    road: RoadConfig
    fields: tuple[Field, ...]
    search: Search
    is_generated: bool
    tracking_uri: str
    tags: Mapping[str, str]
    """Of every training's MLflow run."""
    board: "StepBoard"


def run_trial(point: Point, plan: TrialPlan) -> None:
    """Train at a point and report what was reached; called by Ray Tune."""
    from ray import tune

    road = road_at(plan.road, plan.fields, point)
    workspace, dataset = plan.workspace, plan.search.dataset
    board = plan.board.within(f"trial {trial_number(tune.get_context().get_trial_dir())}")
    with FileLock(plan.folder / f"{content_hash(dict(point))[:12]}.lock"):
        with FileLock(plan.folder / "prepare.lock"):  # towers and features of a point, made once
            shared = Shared(dataset=dataset, road=road, is_generated=plan.is_generated)
            for line in shared.prepare(workspace, None):
                logger.info("%s", line)
        output, parts = workspace.dataset(dataset), find_parts(workspace, road, dataset)
        name = training_name(training_stage(road, output, parts))
        trained = train.run(
            workspace=workspace,
            road=road,
            dataset=dataset,
            tracking_uri=plan.tracking_uri,
            tags=plan.tags,
            board=board,
            watchers=[objective_watcher(plan.search.metric, name)],
        )
        metrics: Mapping[str, Any] = trained.metrics
        if plan.search.metric.startswith(EVALUATED):
            board.announce("answers")
            judged = evaluate.run(
                workspace=workspace,
                road=road,
                dataset=dataset,
                split="validation",
                gallery=0,
                tracking_uri=plan.tracking_uri,
            )
            metrics = headlines(judged.summary, "validation")
    tune.report(
        {
            OBJECTIVE: objective_of(metrics, plan.search.metric),
            TRAINING: name,
            RUN_ID: trained.run_id,
            STEP: int(trained.metrics.get("step", 0)),
            IS_DONE: 1,
        }
    )


def trial_number(folder: str) -> str:
    """The number of a trial, as Ray Tune writes it into the name of its folder."""
    found = _NUMBER.search(Path(folder).name)
    return found[1] if found else "?"


def objective_of(metrics: Mapping[str, Any], name: str) -> float:
    """The metric that is searched for.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in metrics:
        known = ", ".join(sorted(metrics))
        raise ConfigError(f"--metric {name!r} is none of {known}")
    return float(metrics[name])


def objective_watcher(metric: str, training: str) -> Any:  # noqa: ANN401 - Ray's UserCallback
    """A callback for Ray Train that hands the values of a metric on to the Tune trial it is in."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class Watcher(TuneReportCallback):
        """Ray's own, for the reports that have the metric."""

        def after_report(
            self,
            run_context: Any,  # noqa: ANN401 - Ray's internal TrainRunContext
            metrics: list[dict[str, Any]],
            checkpoint: Any,  # noqa: ANN401 - Ray's Checkpoint
        ) -> None:
            """Hand on the value of rank 0."""
            values = metrics[0]
            if metric in values:
                told = {
                    OBJECTIVE: values[metric],
                    TRAINING: training,
                    STEP: int(values.get("step", 0)),
                    IS_DONE: 0,
                }
                super().after_report(run_context, [told], None)

    return Watcher()  # type: ignore[no-untyped-call]


def trainable(plan: TrialPlan) -> Any:  # noqa: ANN401 - what Ray Tune takes
    """The trial as Ray Tune starts it; its training's workers take the CPUs, it takes none."""
    from ray import tune

    # a byte, because Ray Tune refuses a trial that takes nothing
    return tune.with_resources(partial(run_trial, plan=plan), {"cpu": 0, "memory": 1})


def shown_point(fields: tuple[Field, ...], point: Point) -> dict[str, str]:
    """Values of a point as a person reads them."""
    shown = {}
    for field in fields:
        value = point[field.key]
        text = value if field.choices else f"{value:.4g}"
        plain = json.loads(text) if field.choices else text
        shown[field.key] = plain if isinstance(plain, str) else text
    return shown
