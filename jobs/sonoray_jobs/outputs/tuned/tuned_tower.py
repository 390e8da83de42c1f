"""A tower out of a tuning: read as the road says, its channels standardised anew.

Its weights have moved, and with them the means of its channels. A tuning lists images that its
towers are fitted on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.study.image_table import read_images

if TYPE_CHECKING:
    from llava_ultra.towers.tower import Tower

_FIT = "fit.json"


def save_fit(folder: Path, image_ids: Sequence[str]) -> None:
    """Write which images the towers of a tuning are fitted on."""
    (folder / _FIT).write_text(json.dumps(list(image_ids)), encoding="utf-8")


def take_tuned(
    folder: Path, part: str, *, tuning: Path, dataset: Path, readout: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a tower of a tuning; returns the summary of the part.

    Args:
        folder: empty.
        part: name of the tower.
        tuning: folder of the tuning.
        dataset: folder of the dataset that it learned from.
        readout: what is read of the tower (`tuning_taken.readout_of`).

    Raises:
        DataError: the dataset lacks an image.
        ValueError: its weights are missing or damaged.
    """
    from llava_ultra.towers.tower import fit_adopted

    tower = _read_as(part, tuning / part, readout)
    image_ids = json.loads((tuning / _FIT).read_text(encoding="utf-8"))
    fit_adopted(tower, [image for image, _ in read_images(dataset, image_ids).values()])
    tower.save(folder)
    return {
        "fingerprint": tower.fingerprint,
        "num_examples": len(image_ids),
        "source": tuning.name,
    }


def _read_as(part: str, folder: Path, readout: Mapping[str, Any]) -> "Tower":
    """Load a tower, and read of it what is asked for; its own pixel statistics stay."""
    if part == "clip":
        from llava_ultra.towers.clip import ClipTower

        clip = ClipTower.load(folder)
        return clip.read_as(type(clip.config)(**{**clip.config.model_dump(), **readout}))
    if part == "sam":
        from llava_ultra.towers.sam import SamTower

        sam, asked = SamTower.load(folder), dict(readout)
        grid = asked.pop("target_grid")
        config = type(sam.config)(**{**sam.config.model_dump(), **asked})
        return sam.read_as(config, target_grid=grid)
    from llava_ultra.towers.mix.mix_tower import MixTower

    return MixTower.load(folder)
