"""Towers of others: open_clip's published image sides by name, SAM's encoder from its checkpoint.

Weights are read once, as tensors and never as code, and saved as the tower's own safetensors: what
runs later is read from there, under the tower's digest. A tower keeps the pixel statistics that it
was trained with; what a road fits anew is the standardiser of its channels.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower_config import ChannelStatistics, ClipConfig, SamConfig
from llava_ultra.towers.weights_file import check_weights_file

SAM_MEAN: ChannelStatistics = (0.48501961, 0.45607843, 0.40588235)
SAM_STD: ChannelStatistics = (0.22892157, 0.22392157, 0.225)
"""What Meta's SAM was trained with: 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375 over 255."""


def adopt_clip(config: ClipConfig) -> ClipTower:
    """Load the image side of a published CLIP: `config.source` with `config.weights`.

    Its position embeddings are interpolated where `image_size` is not the architecture's own
    (open_clip's bicubic). The pixel statistics that the weights were trained with become part of
    the tower's config.

    Raises:
        ValueError: the weights cannot be had or read, are pickled or of another architecture, or
            the architecture does not give the tokens that the config asks for.
    """
    published = _published(config)
    file = _weights_file(config.weights, published)
    readable = _readable(file)
    try:
        # reads nothing but tensors, and knows the names that other CLIPs give to theirs
        model = open_clip.create_model(
            config.source, readable, force_image_size=config.image_size, weights_only=True
        )
    except (
        AssertionError,
        KeyError,
        RuntimeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise ValueError(
            f"clip.weights {str(file)!r} do not fit clip.source {config.source!r} or are no plain "
            f"tensors ({_first_line(error)}); give the weights of that architecture as safetensors"
        ) from None
    statistics = {
        "pixel_mean": config.pixel_mean
        or tuple(published.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        "pixel_std": config.pixel_std or tuple(published.get("std", open_clip.OPENAI_DATASET_STD)),
    }
    tower = ClipTower(config.model_copy(update=statistics), vocab_size=0, end_id=0, pad_id=0)
    tower.clip.load_state_dict({f"visual.{k}": v for k, v in model.visual.state_dict().items()})
    tower.eval()
    _check_shape(tower, config.source)
    return tower


def adopt_sam(config: SamConfig, *, target_grid: int) -> SamTower:
    """Load a published SAM image encoder from `config.weights`.

    The names may be Meta's (`image_encoder.*`, MedSAM's too), or transformers'
    (`vision_encoder.*`); prompt encoder and mask decoder are left out.

    Raises:
        ValueError: the file cannot be read, is pickled, or is of another shape than the config.
    """
    state = sam_encoder_state(read_weights(Path(config.weights)))
    statistics = {
        "pixel_mean": config.pixel_mean or SAM_MEAN,
        "pixel_std": config.pixel_std or SAM_STD,
    }
    tower = SamTower(config.model_copy(update=statistics), target_grid=target_grid)
    wanted = tower.encoder.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        shapes = [tuple(part[name].shape) if name in part else None for part in (state, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"sam.weights {config.weights!r} have {name} as {shapes[0]}, the config asks for "
                f"{shapes[1]}; set sam.image_size, width, layers, heads, out_channels, window_size "
                "and global_layers to those of the weights"
            )
    tower.encoder.load_state_dict(state)
    tower.eval()
    return tower


_SAM_NAMES = {
    r"^patch_embed\.projection\.": "patch_embed.proj.",
    r"^layers\.(\d+)\.layer_norm": r"blocks.\1.norm",
    r"^layers\.": "blocks.",
    r"^neck\.conv1\.": "neck.0.",
    r"^neck\.layer_norm1\.": "neck.1.",
    r"^neck\.conv2\.": "neck.2.",
    r"^neck\.layer_norm2\.": "neck.3.",
}
"""What transformers calls the parts of SAM's encoder, and what Meta does."""


def sam_encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's tensors under Meta's names, out of a whole SAM's or of itself."""
    prefixes = ("image_encoder.", "vision_encoder.")
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in state)), "")
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(prefix):
            continue
        own = name.removeprefix(prefix)
        for pattern, meta in _SAM_NAMES.items():
            own = re.sub(pattern, meta, own)
        renamed[own] = tensor
    return renamed


_UNREADABLE = (
    *(RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError),
)
"""What torch and safetensors raise of damaged files: an unpickler trips wherever it stands."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors: safetensors, or .pt and .pth that need no unpickling.

    Raises:
        ValueError: there is no such file, it is no file of tensors, or code would have to run.
    """
    file = _readable(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(file)
        values = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(
            f"weights {file!r} are no plain tensors ({_first_line(error)}); "
            "convert them to safetensors where you trust them"
        ) from None
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ValueError(
            f"weights {file!r} are no dictionary of tensors; save the state dict alone"
        )
    return values


def _readable(path: Path) -> str:
    check_weights_file(path)
    return str(path)


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run what it refuses
        return "they are pickled with more than tensors"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _published(config: ClipConfig) -> dict[str, Any]:
    """What open_clip says of the weights, where they are one of its pretrained tags."""
    found: dict[str, Any] = open_clip.get_pretrained_cfg(config.source, config.weights)
    if found.get("quick_gelu") and not open_clip.get_model_config(config.source).get("quick_gelu"):
        raise ValueError(
            f"clip.weights {config.weights!r} were trained with QuickGELU; "
            f"set clip.source to {config.source + '-quickgelu'!r}"
        )
    return found


def _weights_file(weights: str, published: Mapping[str, Any]) -> Path:
    if not published:
        return Path(weights)
    try:
        return Path(open_clip.download_pretrained(published))
    except Exception as error:  # any of the hub client's and the network's
        raise ValueError(
            f"clip.weights {weights!r} cannot be fetched ({_first_line(error)}); "
            "download the file where there is a network and give its path"
        ) from None


@torch.no_grad()
def _check_shape(tower: ClipTower, source: str) -> None:
    size = tower.image_size
    try:
        found = tuple(tower(torch.zeros(1, 3, size, size)).shape[1:])
    except (AssertionError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"clip.source {source!r} cannot be read at {size} pixels with clip.class_token "
            f"{tower.config.class_token} ({_first_line(error)}); use its own image_size without "
            "the class token, or choose another architecture"
        ) from None
    if found != (tower.num_tokens, tower.num_channels):
        raise ValueError(
            f"clip.source {source!r} gives {found} (tokens, channels), the config asks for "
            f"{(tower.num_tokens, tower.num_channels)}; correct clip.patch_size, width and layers"
        )
