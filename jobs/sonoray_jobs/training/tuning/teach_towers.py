"""The Ray task of a tuning: model, towers and studies put together, and what comes out written."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_ultra.language.decoder import checkpoint_activations
from llava_ultra.pretrain.loop import OnStep
from llava_ultra.pretrain.tune_config import learning_towers
from llava_ultra.pretrain.tuning import tune_towers
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import ADOPTED_FIT_IMAGES, Tower
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_jobs.outputs.find import TrainedParts
from sonoray_jobs.outputs.tuned.tuned_tower import save_fit
from sonoray_jobs.training.restore import load_trained
from sonoray_jobs.training.tuning.tune_studies import TuneStudies
from sonoray_jobs.training.worker import set_trainable


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """What the task needs; plain values for Ray."""

    located: TrainedParts
    """The training that is gone on from, and its road with the section `tune`."""
    dataset: Path
    """Dataset folder."""
    towers: dict[str, Path]
    """Folders of its towers, by name."""
    bank: ClassBank | None = None
    """The classes that recognition is trained for."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What is asked before a report."""


def teach_towers(task: Teaching, folder: Path, on_step: OnStep) -> dict[str, Any]:
    """Tune, and write every tower that learned below `folder`.

    Returns:
        Names of the towers, losses and counts.

    Raises:
        ValueError: see `llava_ultra.pretrain.tuning.tune_towers`.
    """
    import torch

    road = task.located.road
    settings = road.tune
    torch.set_num_threads(max(1, round(settings.cpus)))
    model, language = load_trained(task.located)
    set_trainable(model, road.train.stages[-1])
    if road.train.activation_checkpointing:
        checkpoint_activations(language.model)
    towers = {name: _load(name, path) for name, path in task.towers.items()}
    studies = TuneStudies(
        road=road,
        dataset=task.dataset,
        tokenizer=language.tokenizer,
        bank=task.bank,
        protocol=task.protocol,
    )
    losses = tune_towers(
        model,
        towers,
        studies.read,
        studies.number,
        settings,
        on_step,
        device="cuda" if settings.gpus else "cpu",
    )
    learned = learning_towers(road.model, settings)
    for name in learned:
        towers[name].save(folder / name)
    seen = list(dict.fromkeys(studies.seen))
    save_fit(folder, seen[:: math.ceil(len(seen) / ADOPTED_FIT_IMAGES)])
    tenth = max(1, len(losses) // 10)
    return {
        "learned": list(learned),
        "first_loss": sum(losses[:tenth]) / tenth,
        "last_loss": sum(losses[-tenth:]) / tenth,
        "num_studies": studies.number,
        "num_images": len(studies.seen),
    }


def _load(name: str, folder: Path) -> Tower:
    kinds: dict[str, type[ClipTower | SamTower]] = {"clip": ClipTower, "sam": SamTower}
    return kinds[name].load(folder) if name in kinds else MixTower.load(folder)
