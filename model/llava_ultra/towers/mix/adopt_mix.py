"""Published weights as a further tower: read once as tensors, and saved as its own safetensors."""

from pathlib import Path

from llava_ultra.towers.adopt import adopt_clip, adopt_sam
from llava_ultra.towers.mix.adopt_vision import adopt_vision
from llava_ultra.towers.mix.mix_config import FurtherTower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower_config import SamConfig


def adopt_further(config: FurtherTower, *, target_grid: int) -> MixTower:
    """Load a tower of a mix from the weights that it names.

    Args:
        config: the tower.
        target_grid: side of the grid that its features come to.

    Raises:
        ValueError: the weights are missing, damaged or of another shape; names the tower.
    """
    try:
        if config.open_clip is not None:
            clip = adopt_clip(config.open_clip)
            known = config.model_copy(update={"open_clip": clip.config})
            tower = MixTower(known, target_grid=target_grid)
            tower.encoder.load_state_dict(clip.state_dict())
        elif config.sam is not None:
            grid = config.inner_grid(target_grid)
            adopt = _adopt_own_sam if Path(config.sam.weights).is_dir() else adopt_sam
            sam = adopt(config.sam, target_grid=grid)
            tower = MixTower(config.model_copy(update={"sam": sam.config}), target_grid=target_grid)
            tower.encoder.load_state_dict(sam.state_dict())
        else:
            assert config.transformers is not None
            tower = adopt_vision(config, config.transformers, target_grid)
    except ValueError as error:
        raise ValueError(f"tower {config.name!r}: {error}") from None
    return tower.eval()


def _adopt_own_sam(config: SamConfig, *, target_grid: int) -> SamTower:
    """SAM's encoder as another road trained it, from the folder that `bootstrap` wrote."""
    own = SamTower.load(Path(config.weights))
    mean, std = own.pixel_statistics
    statistics = {
        "pixel_mean": config.pixel_mean or mean,
        "pixel_std": config.pixel_std or std,
    }
    tower = SamTower(config.model_copy(update=statistics), target_grid=target_grid)
    try:
        tower.encoder.load_state_dict(own.encoder.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"sam.weights {config.weights!r} are of another shape "
            f"({str(error).splitlines()[-1].strip()[:160]}); set sam.image_size, width, layers, "
            "heads and out_channels to those of that tower"
        ) from None
    return tower.eval()
