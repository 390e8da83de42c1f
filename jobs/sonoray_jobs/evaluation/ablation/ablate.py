"""Ablate: train the variants of a road, several seeds each, and compare what they answer.

What the variants share (dataset, towers, features) is made first. The trainings then run side by
side as Ray tasks. All of it are the road's own content-addressed jobs, so running the command again
goes on where it stopped, with the children that failed too. The report is a stage as well; it and
the settings go to a parent run in MLflow, below which the trainings' runs appear.
"""

import logging
from collections.abc import Mapping, Sequence

from sonoray.config.canonical import content_hash
from sonoray.tracking.connection import open_store
from sonoray.tracking.runs import child_tags, held_run, nest, terminate
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.ablated import Ablated, Planned
from sonoray_jobs.evaluation.ablation.children import (
    Child,
    Shared,
    find_outcome,
    make_children,
    shared_by,
    shared_of,
    shared_towers,
    status_of,
)
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.parallel import num_at_once, place, reason_of, run_children
from sonoray_jobs.evaluation.ablation.report_stage import read_report, write_report
from sonoray_jobs.evaluation.ablation.variants import Ablation
from sonoray_jobs.outputs.find import TRAINING_VERSION
from sonoray_jobs.outputs.settled import settle_training
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.deepspeed_ops import prebuild_communication

logger = logging.getLogger(__name__)


def plan(*, workspace: Workspace, road: RoadConfig, choice: Choice) -> Planned:
    """List children and shared stages with what is done of them; starts nothing.

    Raises:
        ConfigError: the choice does not fit the road.
        DataError: a dataset is missing that cannot be generated.
    """
    road = place(road)
    ablation = choice.ablation(workspace, road)
    children = make_children(ablation, road, choice.seeds, choice.split)
    parts = [*shared_towers(ablation, road), *shared_by(children)]
    return Planned(
        shared=[(shared.dataset, shared.status(workspace)) for shared in parts],
        children=[(child.label, status_of(workspace, child)) for child in children],
    )


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    choice: Choice,
    parallel: int | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Ablated:
    """Train and evaluate all children and report.

    Args:
        workspace: where everything lies.
        road: what the variants vary.
        choice: which ablation, of what, with which seeds.
        parallel: most children at once; by default as many as the cluster has room for.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        ConfigError: the choice does not fit the road.
        DataError: a dataset is missing that cannot be generated.
        ClusterError: the cluster cannot be reached or is too small.
        TrackingError: MLflow cannot be reached.
    """
    road = place(road)
    ablation = choice.ablation(workspace, road)
    children = make_children(ablation, road, choice.seeds, choice.split)
    store = open_store(workspace, tracking_uri)
    with held_run(
        store,
        workspace.runs,
        _parent_name(choice, road),
        config=road.model_dump(mode="json"),
        tags={"sonoray.ablation": ablation.name, "sonoray.command": choice.command},
        experiment=road.experiment,
    ) as parent:
        tags = {child.label: _tags(parent, ablation, child) for child in children}
        towers = shared_towers(ablation, road)
        failures = _run(children, towers, workspace, road, store.uri, tags, parallel, address)
        outcomes = []
        for child in children:
            if child.label in failures:
                continue
            outcome = find_outcome(workspace, child)
            if outcome is None:  # it ended well, under another key
                failures[child.label] = "the code changed while it ran; run the command again"
                continue
            trained = settle_training(workspace, outcome.trained, store)
            nest(store, trained.run_id, tags[child.label])
            outcomes.append((child, outcome))
        output = None
        if outcomes:
            output = write_report(
                workspace, road, choice, ablation, outcomes, failures, store, parent
            )
    if failures:
        terminate(store, parent, "FAILED")
    return Ablated(
        output=output,
        report={} if output is None else read_report(output),
        parent_run_id=parent,
        num_children=len(children),
        failures=failures,
    )


def _run(
    children: Sequence[Child],
    towers: Sequence[Shared],
    workspace: Workspace,
    road: RoadConfig,
    tracking_uri: str,
    tags: Mapping[str, dict[str, str]],
    parallel: int | None,
    address: str | None,
) -> dict[str, str]:
    """Make what is shared, then run the children that are not finished; returns the failures.

    Raises:
        SonoError: towers that all children share cannot be made.
    """
    todo = [child for child in children if find_outcome(workspace, child) is None]
    if not todo:
        return {}

    import ray

    from sonoray.cluster.session import ray_session

    failures: dict[str, str] = {}
    with ray_session(address):
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        at_once = num_at_once(road, resources, parallel)
        for shared in towers:
            _prepare(shared, workspace, address)
        broken: dict[str, str] = {}
        for shared in shared_by(todo):
            try:
                _prepare(shared, workspace, address)
            except Exception as error:
                broken[shared.key] = reason_of(error)
                logger.warning("%s cannot be prepared: %s", shared.dataset, broken[shared.key])
        ready = []
        for child in todo:
            if (reason := broken.get(shared_of(child).key)) is not None:
                failures[child.label] = reason
            else:
                ready.append(child)
        if ready:
            prebuild_communication()
            logger.info("%d children, %d at once", len(ready), at_once)
            failures |= run_children(
                ready,
                workspace=workspace,
                tracking_uri=tracking_uri,
                tags=tags,
                parallel=at_once,
                total=len(children),
            )
    return failures


def _prepare(shared: Shared, workspace: Workspace, address: str | None) -> None:
    for line in shared.prepare(workspace, address):
        logger.info("%s", line)


def _parent_name(choice: Choice, road: RoadConfig) -> str:
    """The same for more seeds and other variants of the same road: they extend one comparison."""
    decisive = {
        "dataset": choice.dataset,
        "split": choice.split,
        "road": road.model_dump(mode="json"),
        "version": TRAINING_VERSION,
    }
    return f"ablate-{choice.name}-{content_hash(decisive)[:12]}"


def _tags(parent: str, ablation: Ablation, child: Child) -> dict[str, str]:
    own = {"ablation": ablation.name, "variant": child.variant, "seed": str(child.seed)}
    return child_tags(parent, own | ({"setting": child.setting} if child.setting else {}))
