"""How a tower is read: which of its layers, and the standardiser of their channels.

Pretraining uses neither. So a tower that was trained here is kept as it was trained, beside the
names of the images that a standardiser is fitted on, and every readout of it is a quick stage of
its own: another layer, or another grid of CLIP for SAM, trains nothing anew. An adopted tower has
nothing to keep and is read out at once.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sonoray.study.image_table import read_images

if TYPE_CHECKING:
    from llava_ultra.config import ClipConfig, ModelConfig, SamConfig
    from llava_ultra.towers.tower import Tower
    from sonoray.stages import StageOutput

READOUT: Mapping[str, set[str]] = {
    "clip": {"feature_layer", "feature_layers", "class_token"},
    "sam": {"feature_layers"},
}
"""By tower: the settings that say what is read of it."""

_FIT = "fit.json"

_TowerConfig = TypeVar("_TowerConfig", "ClipConfig", "SamConfig")


def trained_part(part: str, config: _TowerConfig) -> _TowerConfig:
    """The configuration of what is pretrained: that of the tower with the default readout."""
    fields = type(config).model_fields
    return config.model_copy(update={name: fields[name].default for name in READOUT[part]})


def save_trained(folder: Path, tower: "Tower", image_ids: Sequence[str]) -> None:
    """Write a pretrained tower, and which of the images it saw its standardiser is fitted on."""
    from llava_ultra.towers.tower import FIT_IMAGES

    tower.save(folder)
    chosen = _spread(image_ids, FIT_IMAGES)
    (folder / _FIT).write_text(json.dumps(chosen), encoding="utf-8")


def read_out(
    folder: Path, part: str, model: "ModelConfig", dataset: Path, trained: "StageOutput"
) -> dict[str, Any]:
    """Write a pretrained tower as `model` reads it; returns the summary of the part."""
    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.pixels import to_canvases
    from llava_ultra.towers.sam import SamTower
    from llava_ultra.towers.tower import fit_standardiser

    tower: Tower
    if part == "clip":
        tower = ClipTower.load(trained.path).read_as(model.clip)
    else:
        tower = SamTower.load(trained.path).read_as(model.sam, target_grid=model.clip.grid)
    image_ids = json.loads((trained.path / _FIT).read_text(encoding="utf-8"))
    images = [image for image, _ in read_images(dataset, image_ids).values()]
    fit_standardiser(tower, to_canvases(images, tower.image_size, tower.intensity))
    tower.save(folder)
    return {**trained.manifest["summary"], "fingerprint": tower.fingerprint}


def save_adopted(
    folder: Path,
    tower: "Tower",
    source: str,
    dataset: Path,
    image_ids: Sequence[str],
) -> dict[str, Any]:
    """Fit the standardiser on the dataset's images and write the tower as our own safetensors."""
    from llava_ultra.towers.tower import ADOPTED_FIT_IMAGES, fit_adopted

    chosen = _spread(list(dict.fromkeys(image_ids)), ADOPTED_FIT_IMAGES)
    fit_adopted(tower, [image for image, _ in read_images(dataset, chosen).values()])
    tower.save(folder)
    return {"fingerprint": tower.fingerprint, "num_examples": len(chosen), "source": source}


def _spread(image_ids: Sequence[str], most: int) -> list[str]:
    return list(image_ids[:: math.ceil(len(image_ids) / most)])
