"""A vision model of the transformers library as a further tower, from a folder of its weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from llava_ultra.towers.mix.mix_config import FurtherTower, VisionConfig, check_folder
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.tower_config import ChannelStatistics

IMAGENET_MEAN: ChannelStatistics = (0.485, 0.456, 0.406)
IMAGENET_STD: ChannelStatistics = (0.229, 0.224, 0.225)

_UNREAD = ("pooler.", "head.")
"""Parts of a vision model that are not run before the blocks that are read, and may be missing."""


def read_architecture(folder: Path) -> dict[str, Any]:
    """The configuration of a folder's vision model, as `VisionEncoder` takes it.

    Raises:
        ValueError: the folder has none that transformers reads.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"transformers.weights {str(folder)!r} has no configuration of a model "
            f"({str(error).splitlines()[0][:120]}); check the path"
        ) from None
    values: dict[str, Any] = getattr(found, "vision_config", found).to_dict()
    told_of_files = ("_name_or_path", "transformers_version", "dtype", "architectures")
    return {name: value for name, value in values.items() if name not in told_of_files}


def adopt_vision(config: FurtherTower, vision: VisionConfig, target_grid: int) -> MixTower:
    """Load a vision model of the transformers library.

    Args:
        config: the tower.
        vision: its part that names the folder.
        target_grid: side of the grid that its features come to.

    Raises:
        ValueError: the folder's weights are missing, damaged or of another shape.
    """
    from transformers import AutoConfig, AutoModel

    folder = Path(vision.weights)
    check_folder(vision)
    architecture = read_architecture(folder)
    mean, std = _statistics(folder)
    known = config.model_copy(
        update={
            "transformers": vision.model_copy(
                update={
                    "pixel_mean": vision.pixel_mean or mean,
                    "pixel_std": vision.pixel_std or std,
                }
            )
        }
    )
    tower = MixTower(known, target_grid=target_grid, architecture=architecture)
    values = dict(architecture)
    try:
        read, told = AutoModel.from_pretrained(
            folder,
            config=AutoConfig.for_model(values.pop("model_type"), **values),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"transformers.weights {str(folder)!r} cannot be read "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    # what a file lacks, transformers makes at random and goes on
    lacking = sorted(name for name in told["missing_keys"] if not name.startswith(_UNREAD))
    if lacking or told["mismatched_keys"]:
        odd = [*lacking, *(str(each[0]) for each in told["mismatched_keys"])][:3]
        raise ValueError(
            f"transformers.weights {str(folder)!r} lack or do not fit {', '.join(odd)}; get the "
            "whole model"
        )
    encoder: Any = tower.encoder
    encoder.model.load_state_dict(read.state_dict())
    _check_shape(tower, folder)
    return tower


@torch.no_grad()
def _check_shape(tower: MixTower, folder: Path) -> None:
    size = tower.image_size
    try:
        found = tuple(tower.eval()(torch.zeros(1, 3, size, size)).shape[1:])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"transformers.weights {str(folder)!r} cannot be read at {size} pixels "
            f"({str(error).splitlines()[0][:120]}); use a plain vision transformer at its own "
            "image_size"
        ) from None
    if found != (tower.num_tokens, tower.num_channels):
        raise ValueError(
            f"transformers.weights {str(folder)!r} give {found} (tokens, channels), the config "
            f"asks for {(tower.num_tokens, tower.num_channels)}; use a plain vision transformer"
        )


def _statistics(folder: Path) -> tuple[ChannelStatistics, ChannelStatistics]:
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mean, std = values.get("image_mean"), values.get("image_std")
    if not mean or not std:
        return IMAGENET_MEAN, IMAGENET_STD
    (a, b, c), (d, e, f) = mean, std
    return (a, b, c), (d, e, f)
