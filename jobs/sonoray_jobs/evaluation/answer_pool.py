"""All questions of some studies through a pool of answering actors, on Ray Data.

`sonoray evaluate` answers with a trained model, `sonoray validate` with an exported one, `sonoray
robustness` under many conditions; what they share is here: how many actors there are, and that
every question comes back once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision, answer_precision
from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
from sonoray_jobs.evaluation.questions import num_asked
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.towers.feature_source import FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig


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

    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus

    batch_size = batch_size or settings.batch_size
    num_batches = max(1, len(rows) // batch_size)
    num_actors = min(settings.actors, num_batches)
    with ray_session(address):
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
