"""Tune: the towers learn through a finished training, end to end, and become a road's towers.

The output is a stage of the workspace with the towers that learned. A road takes them by
`bootstrap.tuned`: they get stores of features of their own, and whatever stands on them is made
anew. What that will take is said before anything runs.

A tuning that is interrupted begins anew. One process learns, on one GPU at most.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_ultra.pretrain.tune_config import learning_towers
from sonoray.errors import ConfigError
from sonoray.features.formats import FORMATS
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.outputs.stores import read_image_ids, tower_folders
from sonoray_jobs.outputs.tuned.tuning_taken import settings_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.training.class_bank import prepare_bank
from sonoray_jobs.training.protocol import training_protocol
from sonoray_jobs.training.studies import training_index

logger = logging.getLogger(__name__)

_CODE = ("sonoray_jobs.training.tuning.teach_towers",)
_PLACEMENT = {"cpus", "gpus", "images_at_once"}
"""Of section `tune`: what decides where it runs and not what is learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """A tuning."""

    output: StageOutput
    values: Mapping[str, Any]
    """Its summary."""

    @property
    def name(self) -> str:
        """What `bootstrap.tuned` takes."""
        return self.output.path.name

    def lines(self) -> list[str]:
        """What a person reads."""
        values = self.values
        state = "reused" if self.output.reused else "tuned"
        setting = "=".join(("bootstrap.tuned", self.name))
        return [
            f"{state} {', '.join(values['learned'])} of {values['training']}: loss "
            f"{values['first_loss']:.3f} -> {values['last_loss']:.3f} over {values['num_images']} "
            f"images of {values['num_studies']} studies",
            "take it in bootstrap, embed, train and what follows, in place of --run, with the same "
            f"--config and --set, and: --set {setting}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"name": self.name, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Tuned:
    """Tune the towers of a finished training.

    Args:
        workspace: where everything lies.
        road: the settings; section `tune` says how.
        dataset: name of the dataset.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished.
        ConfigError: the training that `run` names is of another dataset or stands on a tuning, a
            node lacks its precision, or there are fewer studies than a batch.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
        ValueError: a tower is not one that the fusion reads.
    """
    output = workspace.dataset(dataset)
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    made = replace(made, road=made.road.model_copy(update={"tune": road.tune}))
    _check(made)
    stage = Stage(
        name=f"tune-{dataset}",
        config=made.road.tune.model_dump(mode="json", exclude=_PLACEMENT),
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_CODE,
    )
    result = run_stage(
        stage, workspace.stages, lambda folder: _tune(folder, made, address, dataset)
    )
    return Tuned(output=result, values=result.manifest["summary"])


def _check(made: Made) -> None:
    """Refuse what cannot be tuned, before anything starts."""
    settings = made.road.tune
    if made.road.bootstrap.tuned:
        raise ConfigError(
            f"training {made.trained.name!r} stands on {made.road.bootstrap.tuned!r}; tune the "
            "training that was tuned there, with more tune.steps"
        )
    learning_towers(made.road.model, settings)
    number = len(training_index(made.output.path, made.road.train))
    if min(number, settings.max_examples) < settings.batch_size:
        raise ConfigError(
            f"tune.batch_size {settings.batch_size} is more than the "
            f"{min(number, settings.max_examples)} training studies that are gone through; lower it"
        )


def _tune(folder: Path, made: Made, address: str | None, dataset: str) -> dict[str, Any]:
    import ray

    from sonoray.cluster.session import ray_session, require_cpus
    from sonoray.cluster.step_board import StepBoard
    from sonoray_jobs.training.tuning.teach_towers import Teaching, teach_towers

    road, settings = made.road, made.road.tune
    logger.info("%s", cost_of(made))
    task = Teaching(
        located=made.located,
        dataset=made.output.path,
        towers=tower_folders(made.parts),
        bank=prepare_bank(made.output.path, road),
        protocol=training_protocol(made.output.path, road.train),
    )
    with ray_session(address):
        require_cpus(settings.cpus, "tune", num_gpus=settings.gpus)
        require_precisions({"train.precision": road.train.precision}, uses_gpus=settings.gpus > 0)
        board = StepBoard.start()
        remote = ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus)(teach_towers)
        waiting = remote.remote(task, folder, board.poster("tune"))
        with board.watching():
            learned: dict[str, Any] = ray.get(waiting)
    return {
        **learned,
        "training": made.trained.name,
        "dataset": dataset,
        "dataset_key": made.output.key,
        "dataset_folder": made.output.path.name,
        "settings": settings_of(road),
    }


def cost_of(made: Made) -> str:
    """What a tuning and what follows it will take, in one line."""
    road, settings = made.road, made.road.tune
    index = training_index(made.output.path, road.train)
    passes = round(settings.steps * settings.batch_size * index.images_per_study)
    images = len(read_image_ids(made.output.path))
    learned = learning_towers(road.model, settings)
    kept = [name for name in learned if road.embed.keeps(name)]
    form, shapes = FORMATS[road.embed.dtype], road.model.tower_shapes
    each = sum(shapes[name][0] * form.bytes_per_token(shapes[name][1]) for name in kept)
    views = f", and {road.embed.views} views of each for training" if road.embed.views else ""
    return (
        f"tune: {settings.steps} steps of {settings.batch_size} studies, some {passes:,} images "
        f"forward through all towers and backward through {', '.join(learned)}; then all "
        f"{images:,} images are embedded anew{views} ({images * each / 1e6:,.0f} MB of features "
        "beside the old ones, without views) and a model is trained on them from the start"
    )
