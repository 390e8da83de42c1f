"""A tower out of a tuning: read as the road says, its channels standardised anew.

Its weights have moved, and with them the means of its channels. A tuning lists images that its
towers are fitted on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.study.image_table import read_images
from sonoray_jobs.outputs.layers import READOUT
from sonoray_jobs.outputs.part_keys import tuning_of

if TYPE_CHECKING:
    from llava_ultra.towers.tower import Tower
    from sonoray_jobs.road.config import RoadConfig

_FIT = "fit.json"


def save_fit(folder: Path, image_ids: Sequence[str]) -> None:
    """Write which images the towers of a tuning are fitted on."""
    (folder / _FIT).write_text(json.dumps(list(image_ids)), encoding="utf-8")


def take_tuned(folder: Path, part: str, road: "RoadConfig", stages: Path) -> dict[str, Any]:
    """Write a tower of the tuning that `bootstrap.tuned` names; returns the summary of the part.

    Args:
        folder: empty.
        part: name of the tower.
        road: the configuration.
        stages: folder of the stages.

    Raises:
        DataError: there is no such tuning, or its dataset is gone.
        ValueError: its weights are damaged.
    """
    from llava_ultra.towers.tower import fit_adopted

    tuning = tuning_of(road, stages)
    tower = _read_as(part, tuning.path / part, road)
    image_ids = json.loads((tuning.path / _FIT).read_text(encoding="utf-8"))
    dataset = stages / tuning.manifest["summary"]["dataset_folder"]
    fit_adopted(tower, [image for image, _ in read_images(dataset, image_ids).values()])
    tower.save(folder)
    return {
        "fingerprint": tower.fingerprint,
        "num_examples": len(image_ids),
        "source": tuning.path.name,
    }


def _read_as(part: str, folder: Path, road: "RoadConfig") -> "Tower":
    """Load a tower, and read of it what the road reads; its own pixel statistics stay."""
    if part == "clip":
        from llava_ultra.towers.clip import ClipTower

        clip = ClipTower.load(folder)
        return clip.read_as(clip.config.model_copy(update=_readout(part, road)))
    if part == "sam":
        from llava_ultra.towers.sam import SamTower

        sam = SamTower.load(folder)
        config = sam.config.model_copy(update=_readout(part, road))
        return sam.read_as(config, target_grid=road.model.clip.grid)
    from llava_ultra.towers.mix.mix_tower import MixTower

    return MixTower.load(folder)


def _readout(part: str, road: "RoadConfig") -> dict[str, Any]:
    return {name: getattr(getattr(road.model, part), name) for name in READOUT[part]}
