"""Ablate: train the variants of a road, several seeds each, and compare what they answer.

What the variants share (dataset, towers, features) is made first. The trainings then run side by
side as Ray tasks. All of it are the road's own content-addressed jobs, so running the command again
goes on where it stopped, with the children that failed too. The report is a stage as well; it and
the settings go to a parent run in MLflow, below which the trainings' runs appear.
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.config.load import validate_config
from sonoray.digests.code import code_digest
from sonoray.errors import ConfigError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.phantom import PhantomConfig
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.tracking.connection import Store, open_store
from sonoray.tracking.runs import child_tags, held_run, log_results, nest, terminate
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation import figure
from sonoray_jobs.evaluation.ablation.children import (
    Child,
    Outcome,
    Shared,
    find_outcome,
    make_children,
    shared_by,
    shared_of,
    shared_towers,
    status_of,
)
from sonoray_jobs.evaluation.ablation.parallel import num_at_once, place, reason_of, run_children
from sonoray_jobs.evaluation.ablation.report import make_report, overview, to_markdown
from sonoray_jobs.evaluation.ablation.variants import (
    DEFAULT_LABEL,
    Ablation,
    Request,
    build_ablation,
)
from sonoray_jobs.outputs.find import TRAINING_CODE
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.deepspeed_ops import prebuild_communication

logger = logging.getLogger(__name__)

_CODE = (
    "sonoray_jobs.evaluation.ablation.report",
    "sonoray_jobs.evaluation.ablation.figure",
)
_REPORT = ("report.md", "report.json", "report.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablated:
    """The report, and what is missing in it."""

    output: StageOutput | None
    """None where no child ended well."""
    report: Mapping[str, Any]
    parent_run_id: str
    num_children: int
    failures: Mapping[str, str] = field(default_factory=dict)
    """By child: why it failed."""

    @property
    def exit_code(self) -> int:
        """1 where a child failed."""
        return 1 if self.failures else 0

    def lines(self) -> list[str]:
        """What a person reads."""
        shown = []
        if self.output is not None:
            shown += [*overview(self.report).text(), "", self.report["method"]]
            shown += [f"report: {self.output.path / name}" for name in _REPORT]
        shown.append(f"MLflow parent run {self.parent_run_id}")
        if self.failures:
            shown.append(
                f"{len(self.failures)} of {self.num_children} children failed; run the command "
                "again to go on with them"
            )
            shown += [f"  {label}: {reason}" for label, reason in self.failures.items()]
        return shown

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": None if self.output is None else str(self.output.path),
            "parent_run_id": self.parent_run_id,
            "failures": dict(self.failures),
            "report": dict(self.report),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What an ablation would do."""

    shared: Sequence[tuple[str, str]]
    """Dataset and state of what several children need."""
    children: Sequence[tuple[str, str]]
    """Label and state of each child."""

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            "shared stages:",
            *(f"  {name}: {state}" for name, state in self.shared),
            f"{len(self.children)} children:",
            *(f"  {name}: {state}" for name, state in self.children),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "shared": [{"dataset": name, "state": state} for name, state in self.shared],
            "children": [{"child": name, "state": state} for name, state in self.children],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which ablation, of what, with which seeds: what decides the result besides the road."""

    name: str
    dataset: str
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = ()
    """Some of the variants; all where empty."""
    redundancies: tuple[int, ...] = ()
    label: str | None = None
    """Of the modality ablation; by default `organ`."""
    config: str = "tiny"
    """As on the command line, for the report."""
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"--seeds {list(self.seeds)} must name one or more, each once")
        if len(set(self.redundancies)) < len(self.redundancies):
            raise ConfigError(f"--redundancy {list(self.redundancies)} must name each once")
        for number in self.redundancies:
            validate_config(PhantomConfig, {"images": [number] * 2}, f"--redundancy {number}")
        if self.label is not None and self.name != "modality":
            raise ConfigError(
                f"--label {self.label} is for the modality ablation, not {self.name}; leave it out"
            )

    @property
    def command(self) -> str:
        """The command line that makes the same report."""
        words = ["sonoray", "ablate", self.name, "--config", self.config]
        words += ["--dataset", self.dataset, "--seeds", _listed(self.seeds)]
        if self.variants:
            words += ["--variants", _listed(self.variants)]
        if self.redundancies:
            words += ["--redundancy", _listed(self.redundancies)]
        if self.label is not None:
            words += ["--label", self.label]
        return shlex.join(words + [word for text in self.overrides for word in ("--set", text)])

    def ablation(self, workspace: Workspace, road: RoadConfig) -> Ablation:
        """The table of its variants."""
        request = Request(
            workspace=workspace,
            dataset=self.dataset,
            redundancies=self.redundancies,
            label=self.label or DEFAULT_LABEL,
        )
        return build_ablation(self.name, road, request).chosen(self.variants)


def plan(*, workspace: Workspace, road: RoadConfig, choice: Choice) -> Planned:
    """List children and shared stages with what is done of them; starts nothing.

    Raises:
        ConfigError: the choice does not fit the road.
        DataError: a dataset is missing that cannot be generated.
    """
    road = place(road)
    ablation = choice.ablation(workspace, road)
    children = make_children(ablation, road, choice.seeds)
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
    children = make_children(ablation, road, choice.seeds)
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
            assert outcome is not None, child.label  # it ended well
            nest(store, outcome.trained.run_id, tags[child.label])
            outcomes.append((child, outcome))
        output = None
        if outcomes:
            output = _report(workspace, road, choice, ablation, outcomes, failures, store, parent)
    if failures:
        terminate(store, parent, "FAILED")
    return Ablated(
        output=output,
        report={} if output is None else _read_report(output),
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


def _report(
    workspace: Workspace,
    road: RoadConfig,
    choice: Choice,
    ablation: Ablation,
    outcomes: Sequence[tuple[Child, Outcome]],
    failures: Mapping[str, str],
    store: Store,
    parent: str,
) -> StageOutput:
    """Write the report as a stage and add it to the parent run."""
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)

    def make(folder: Path) -> dict[str, Any]:
        report = make_report(
            ablation,
            outcomes,
            sorted(failures),
            dataset=choice.dataset,
            command=choice.command,
            parent_run_id=parent,
            bootstrap=bootstrap,
        )
        write_json(folder / "report.json", report)
        markdown = "\n".join(to_markdown(report, "report.png"))
        (folder / "report.md").write_text(markdown + "\n", encoding="utf-8")
        figure.draw(report, folder / "report.png")
        return {"run_id": parent, "num_children": len(outcomes), "num_failed": len(failures)}

    stage = Stage(
        name=f"ablate-{ablation.name}",
        config={
            "command": choice.command,
            "parent": parent,
            "bootstrap": bootstrap.model_dump(mode="json"),
            "failures": sorted(failures),
            "trainings": [[left.trained.name, left.trained.run_id] for _, left in outcomes],
        },
        inputs=[found.key for _, left in outcomes for found in left.evaluations.values()],
        code=_CODE,
    )
    output = run_stage(stage, workspace.stages, make)
    # every time: the parent may show the report of other seeds or variants
    log_results(store, parent, {}, {name: output.path / name for name in _REPORT})
    return output


def _read_report(output: StageOutput) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output.path / "report.json").read_text(encoding="utf-8"))
    return report


def _parent_name(choice: Choice, road: RoadConfig) -> str:
    """The same for more seeds and other variants of the same road: they extend one comparison."""
    decisive = {
        "dataset": choice.dataset,
        "road": road.model_dump(mode="json"),
        "code": code_digest(*TRAINING_CODE),
    }
    return f"ablate-{choice.name}-{content_hash(decisive)[:12]}"


def _tags(parent: str, ablation: Ablation, child: Child) -> dict[str, str]:
    own = {"ablation": ablation.name, "variant": child.variant, "seed": str(child.seed)}
    return child_tags(parent, own | ({"setting": child.setting} if child.setting else {}))


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
