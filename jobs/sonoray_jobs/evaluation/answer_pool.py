"""All questions of some studies through a pool of answering actors, on Ray Data.

`sonoray evaluate` answers with a trained model, `sonoray validate` with an exported one, `sonoray
robustness` under many conditions; what they share is here: how many actors there are, and that
every question comes back once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision, answer_precision
from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
from sonoray_jobs.evaluation.questions import num_asked
from sonoray_jobs.outputs.stores import tower_folders
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.road.embed_config import Keep
from sonoray_jobs.towers.feature_source import FeatureSource, feature_source
from sonoray_jobs.training.restore import load_trained

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.outputs.find import Made
    from sonoray_jobs.road.config import EvaluateConfig


def features_of(
    workspace: "Workspace", made: "Made", *, dataset: Path | None = None, keep: Keep | None = None
) -> FeatureSource:
    """Where the actors that a training answers in get features of images from.

    Args:
        workspace: where its features are stored.
        made: the training.
        dataset: folder of the dataset; by default the one that it was trained on.
        keep: which towers' features are stored; by default as in the training.
    """
    road = made.road
    source = feature_source(
        road.embed.model_copy(update={"keep": keep}) if keep else road.embed,
        model=road.model,
        dataset=dataset or made.output.path,
        folders=tower_folders(made.parts),
        stores=made.stores(workspace),
        device="cuda" if road.evaluate.actor_gpus else "cpu",
    )
    return replace(source, views=None)  # what it learned from beside the images themselves


def read_studies(
    workspace: "Workspace",
    made: "Made",
    studies: Sequence[Study],
    *,
    actor: type,
    given: Mapping[str, Any],
    address: str | None,
    what: str,
) -> list[dict[str, Any]]:
    """Send each study once through a pool of actors that hold a training's model.

    Args:
        workspace: where its features are stored.
        made: the training.
        studies: of the dataset that it was trained on.
        actor: class of the actors; also gets `load`, `settings`, `features` and `device`.
        given: what else its constructor gets.
        address: the cluster, as for every job.
        what: is done, for the progress.

    Returns:
        A row of each study, in no order.

    Raises:
        ConfigError: a node lacks the precision.
        DataError: a study did not come back.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    road = made.road
    return answer_rows(
        pack_studies(list(studies)),
        num_answers=len(studies),
        actor=actor,
        given={"load": partial(load_trained, made.located, road.evaluate.precision), **given},
        trained_in=road.train.precision,
        settings=road.evaluate,
        features=features_of(workspace, made),
        address=address,
        what=what,
    )


def answer_studies(
    studies: Sequence[Study],
    *,
    load: Callable[[], tuple[LlavaUltra, Language]],
    trained_in: Precision,
    settings: "EvaluateConfig",
    features: FeatureSource,
    address: str | None,
    protocol: ReportProtocol = NO_PROTOCOL,
) -> list[dict[str, Any]]:
    """Answer all questions of some studies.

    Args:
        studies: with the questions that they are asked.
        load: returns the model; called once in each actor.
        trained_in: the precision that the model was trained in.
        settings: how answers are made, and the room of the actors.
        features: where the images' features come from.
        address: the cluster, as for every job.
        protocol: what is asked before a report.

    Returns:
        The predictions, in the order of studies and their questions.

    Raises:
        ConfigError: a node lacks the precision.
        DataError: not every question was answered.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    rows = answer_rows(
        pack_studies(list(studies)),
        num_answers=num_asked(studies),
        actor=AnswerActor,
        given={"load": load, "protocol": protocol},
        trained_in=trained_in,
        settings=settings,
        features=features,
        address=address,
    )
    place = {study.study_id: position for position, study in enumerate(studies)}
    return sorted(rows, key=lambda row: place[row["study_id"]])


def answer_rows(
    rows: Sequence[dict[str, Any]],
    *,
    num_answers: int,
    actor: type,
    given: Mapping[str, Any],
    trained_in: Precision,
    settings: "EvaluateConfig",
    features: FeatureSource,
    address: str | None,
    batch_size: int | None = None,
    what: str = "answer questions",
) -> list[dict[str, Any]]:
    """Send rows through a pool of actors; what comes back has no order.

    Args:
        rows: what the actors are given, in batches.
        num_answers: how many rows come back.
        actor: class of the actors; also gets `settings`, `features` and `device`.
        given: what else its constructor gets.
        trained_in: the precision that the model was trained in.
        settings: the room of the actors.
        features: where the images' features come from.
        address: the cluster, as for every job.
        batch_size: rows of a batch; by default `evaluate.batch_size`.
        what: is done, for the progress.

    Raises:
        ConfigError: a node lacks the precision.
        DataError: fewer or more rows came back.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    import ray

    from sonoray.cluster.data_pause import pause_idle_loops
    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus

    batch_size = batch_size or settings.batch_size
    num_batches = max(1, len(rows) // batch_size)
    num_actors = min(settings.actors, num_batches)
    with ray_session(address):
        pause_idle_loops()
        require_cpus(
            num_actors * settings.actor_cpus,
            "evaluation",
            num_gpus=num_actors * settings.actor_gpus,
        )
        asked = {"evaluate.precision": str(answer_precision(settings.precision, trained_in))}
        for stage in features.streamed:
            asked["embed.precision"] = stage.store.computed_in
        require_precisions(asked, uses_gpus=settings.actor_gpus > 0)
        answers = ray.data.from_items(list(rows), override_num_blocks=num_batches).map_batches(
            actor,
            fn_constructor_kwargs={
                **given,
                "settings": settings,
                "features": features,
                "device": "cuda" if settings.actor_gpus else "cpu",
            },
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=settings.actor_cpus,
            num_gpus=settings.actor_gpus,
        )
        found = list(progress(answers.iter_rows(), what, total=num_answers))
    if len(found) != num_answers:
        raise DataError(f"{len(found)} of {num_answers} answers came back; run the command again")
    return found
