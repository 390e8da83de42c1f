"""A further tower of a mix: taken from its published weights, its channels standardised here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_ultra.towers.mix.mix_config import check_folder
from llava_ultra.towers.weights_file import SUFFIXES, check_weights_file
from sonoray.errors import CheckpointError
from sonoray_jobs.outputs.layers import save_adopted

if TYPE_CHECKING:
    from llava_ultra.towers.mix.mix_config import FurtherTower
    from sonoray.study.contract import Study
    from sonoray_jobs.road.config import RoadConfig


def further_tower(road: "RoadConfig", name: str) -> "FurtherTower":
    """The configuration of the further tower of that name."""
    (found,) = (tower for tower in road.model.towers if tower.name == name)
    return found


def check_further(tower: "FurtherTower") -> None:
    """Refuse weights that are missing, or would run code, before a cluster starts.

    Raises:
        CheckpointError: they are; names the tower.
    """
    path = Path(tower.encoder.weights)
    try:
        if tower.transformers is not None:
            check_folder(tower.transformers)
        elif tower.sam is not None and (path / "tower.json").is_file():  # of another road
            return
        elif path.suffix in SUFFIXES or tower.sam is not None:  # else one of open_clip's names
            check_weights_file(path)
    except ValueError as error:
        raise CheckpointError(f"tower {tower.name!r}: {error}") from None


def make_further(
    name: str,
    folder: Path,
    road: "RoadConfig",
    dataset: Path,
    studies: Sequence["Study"],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Write the tower into `folder` and return its summary.

    Args:
        name: of the tower.
        folder: empty.
        road: the configuration.
        dataset: folder of the dataset.
        studies: its training studies.
        post: progress callback; this takes one step.

    Raises:
        ValueError: the weights are missing, damaged or of another shape.
    """
    from llava_ultra.towers.mix.adopt_mix import adopt_further

    del post
    config = further_tower(road, name)
    tower = adopt_further(config, target_grid=road.model.grid_of(config))
    wanted = [image.image_id for study in studies for image in study.images]
    told = [getattr(config.encoder, "source", ""), config.encoder.weights]
    return save_adopted(folder, tower, " ".join(filter(None, told)), dataset, wanted)
