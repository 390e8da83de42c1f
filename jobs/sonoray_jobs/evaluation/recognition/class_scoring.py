"""Scores of a bank's classes from vectors of studies: what is left to do for each bank.

A task with the model reads the texts of the classes and takes products; no study is read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_ultra.recognition.bank import ClassBank
from sonoray_jobs.evaluation.recognition.study_states import Load, StudyStates

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig, RecognizeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How classes are read."""

    bank: ClassBank
    settings: "RecognizeConfig"


def score_states(
    states: Sequence[StudyStates],
    *,
    load: Load,
    reading: Reading,
    settings: "EvaluateConfig",
    address: str | None,
) -> dict[str, list[float]]:
    """Similarity over temperature (C,) of every study with the classes of a bank, by study id.

    Args:
        states: vectors of studies, read by the model.
        load: returns the model.
        reading: the bank, and how it is read.
        settings: what the task takes.
        address: the cluster, as for every job.

    Raises:
        ValueError: the model cannot be asked that way; see `llava_ultra.decoding.class_scores`.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    import ray

    from sonoray.cluster.session import ray_session, require_cpus

    device = "cuda" if settings.actor_gpus else "cpu"
    with ray_session(address):
        require_cpus(settings.actor_cpus, "recognition", num_gpus=settings.actor_gpus)
        task = ray.remote(num_cpus=settings.actor_cpus, num_gpus=settings.actor_gpus)(score_here)
        found: dict[str, list[float]] = ray.get(task.remote(load, reading, list(states), device))
    return found


def score_here(
    load: Load, reading: Reading, states: Sequence[StudyStates], device: str
) -> dict[str, list[float]]:
    """The same in this process."""
    import torch

    from llava_ultra.decoding.class_scores import compare, read_classes
    from llava_ultra.recognition.losses import Side

    model, language = load()
    model.fix()
    model.to(device)
    settings = reading.settings
    classes = read_classes(
        model,
        language.tokenizer,
        reading.bank,
        against=None if settings.against == "trained" else settings.against,
        pooling=None if settings.pooling == "trained" else settings.pooling,
        readout=None if settings.readout == "trained" else settings.readout,
    )
    scores: dict[str, list[float]] = {}
    for part in states:
        side = Side(
            globals_=torch.from_numpy(part.globals_).to(device),
            locals_=torch.from_numpy(part.locals_).to(device),
        )
        rows = compare(model, classes, side).double().tolist()
        scores |= dict(zip(part.study_ids, rows, strict=True))
    return scores
