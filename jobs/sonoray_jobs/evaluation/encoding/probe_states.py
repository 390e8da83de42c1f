"""Probe states: how well each layer's states predict numbers, with an instruction and without.

After "Correlating instruction-tuning (in multimodal models) with vision-language processing (in the
brain)" (arXiv 2505.20029), of which the abstract is known: encoding models from a multimodal
model's states, under ten instructions, to brain activity. Here they go to any table of numbers that
a user brings, or to what a dataset's labels say. The states, the folds and the scores are our
choice (`state_reading`, `ridge`).

Two content-addressed stages: the states, which other targets share, and the scores. Nothing is
trained but ridge regressions. `states.md` and `states.json` also go to the training's MLflow run.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.study.prompt import FOLLOW_UP
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.encoding.targets import Targets, label_targets, read_targets
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

ALL = "all"
"""Every split of the dataset."""
_FILE = "states.npz"
_REPORT = ("states.md", "states.json")
_READING = (
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.encoding.state_reading",
)
_CODE = ("sonoray_jobs.evaluation.encoding.encoding_report",)


@dataclass(frozen=True, kw_only=True, slots=True)
class StatesProbed:
    """What states know."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of `states.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.encoding.encoding_report import (
            instructions_table,
            targets_table,
        )

        values = self.values
        towers = ", ".join(f"{name} {each['value']:.3f}" for name, each in values["towers"].items())
        return [
            f"{self.split}: {values['num_studies']} studies, {len(values['targets'])} targets; "
            "correlation of predictions for patients that were not learned from, mean over the "
            "targets, 95 % intervals over patients",
            *instructions_table(values).text(),
            f"towers, pooled: {towers}",
            "",
            *targets_table(values).text(),
            *(f"{name}: left out, it {reason}" for name, reason in values["left_out"].items()),
            f"all layers: {self.output.path / _REPORT[1]}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    targets: Path | None = None,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> StatesProbed:
    """Score the states of a training.

    Args:
        workspace: where everything lies.
        road: the settings; section `states` says what the model is told and what is predicted.
        dataset: name of the dataset.
        split: whose studies are read; `all` takes every one, also those that it was trained on.
        targets: a table of numbers; by default the labels are the targets.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, the split is unknown or empty, or there is nothing
            to predict.
        ConfigError: a target is unknown, or the training that `run` names is of another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    if split not in (ALL, *SPLITS):
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join((ALL, *SPLITS))}")
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    chosen = None if split == ALL else split
    everyone = iter_studies(output.path, split=chosen, only=road.evaluate.only, complete=False)
    studies = [study for study in everyone if study.images]
    if not studies:
        raise DataError(f"dataset {dataset!r} has no {split} studies with images to read")
    wanted = _chosen(
        label_targets(studies) if targets is None else read_targets(targets, studies), road
    )
    told = ("", *(road.states.instructions or common_questions(output, made)))
    read = run_stage(
        Stage(
            name=f"states-{dataset}-{split}",
            config={
                "studies": content_hash([study.study_id for study in studies]),
                "instructions": list(told),
                "precision": road.evaluate.precision,
                "features": road.embed.dtype,
            },
            inputs=[output.key, made.trained.name, made.trained.run_id],
            code=_READING,
        ),
        workspace.stages,
        lambda folder: _read(folder, workspace, made, studies, told, address),
    )
    stage = Stage(
        name=f"probe-states-{dataset}-{split}",
        config={
            "targets": content_hash({name: dict(own) for name, own in wanted.measured.items()}),
            "left_out": dict(wanted.left_out),
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[read.key],
        code=_CODE,
    )
    result = run_stage(
        stage,
        workspace.stages,
        lambda folder: _judge(
            folder, workspace, made, read, studies, wanted, told, split, tracking_uri
        ),
    )
    return StatesProbed(output=result, split=split, values=result.manifest["summary"])


def common_questions(output: StageOutput, made: Made) -> list[str]:
    """The commonest question of each topic of the training, without those that follow another."""
    asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for study in iter_training_studies(output.path, _without_cue(made.road).train):
        for turn in study.turns:
            if turn.topic != FOLLOW_UP:
                asked[turn.topic][turn.question] += 1
    return [min(own, key=lambda text: (-own[text], text)) for own in asked.values()]


def _without_cue(road: RoadConfig) -> RoadConfig:
    """Questions as they stand in the archive: the site is put in front of them later."""
    return road.model_copy(update={"train": road.train.model_copy(update={"site_cue": False})})


def _chosen(found: Targets, road: RoadConfig) -> Targets:
    names = road.states.targets
    known = {**found.measured, **found.left_out}
    if unknown := sorted(set(names).difference(known)):
        raise ConfigError(f"states.targets {unknown} are none of {sorted(known)}")
    if gone := [name for name in names if name in found.left_out]:
        raise DataError(f"target {gone[0]!r} {found.left_out[gone[0]]}; name others")
    if not names:
        return found
    return replace(found, measured={name: found.measured[name] for name in names}, left_out={})


def _read(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    told: Sequence[str],
    address: str | None,
) -> dict[str, Any]:
    import numpy as np

    from sonoray_jobs.evaluation.answer_pool import read_studies
    from sonoray_jobs.evaluation.encoding.state_reading import InstructedActor, arrange

    rows = read_studies(
        workspace,
        made,
        studies,
        actor=InstructedActor,
        given={"instructions": list(told), "names_site": made.road.train.site_cue},
        address=address,
        what="read studies",
    )
    states, towers = arrange(rows, studies, len(told))
    np.savez(folder / _FILE, states=states, clip=towers["clip"], sam=towers["sam"])
    return {"num_studies": len(studies), "num_layers": states.shape[2]}


def _judge(
    folder: Path,
    workspace: Workspace,
    made: Made,
    read: StageOutput,
    studies: Sequence[Study],
    targets: Targets,
    told: Sequence[str],
    split: str,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Score, write into `folder`, log."""
    import numpy as np

    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, require_run
    from sonoray_jobs.evaluation.encoding.encoding_report import (
        instructions_table,
        judge_states,
        targets_table,
    )

    evaluate, trained = made.road.evaluate, made.trained
    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, trained.run_id)
    with np.load(read.path / _FILE) as found:
        states, towers = found["states"], {tower: found[tower] for tower in TOWERS}
    bootstrap = Bootstrap(num_resamples=evaluate.bootstrap_samples, seed=evaluate.seed)
    values = judge_states(studies, states, towers, targets, told, bootstrap)
    markdown, as_json = (folder / name for name in _REPORT)
    tables = (instructions_table(values), targets_table(values))
    text = "\n\n".join("\n".join(table.markdown()) for table in tables)
    markdown.write_text(text + "\n", encoding="utf-8")
    write_json(as_json, values)
    shown = f"states/{split}"
    headlines = {
        f"{shown}/no_instruction": values["layers"][0][-1]["value"],
        f"{shown}/instructed": float(np.mean([own[-1]["value"] for own in values["layers"][1:]])),
        f"{shown}/towers": values["towers"]["both"]["value"],
    }
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, trained.run_id, headlines, artifacts)
    return {**values, "run_id": trained.run_id}
