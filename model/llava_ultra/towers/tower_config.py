"""Configuration of the two towers: their shapes, their weights, and which of their layers are read.

A published CLIP's shape comes from open_clip's own files, read here without importing torch, so
that a whole road can be checked before anything heavy is loaded.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelPart(BaseModel):
    """Base of the model's configuration classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


IntensityName = Literal["none", "quantile", "clahe"]
"""`quantile` bends the grey curve, one for the whole image, so that its quantiles are always the
same; `clahe` spreads the greys of each part of the image."""

ChannelStatistics = tuple[float, float, float]
"""One value for red, green and blue, for pixels in 0..1."""


class ClipConfig(ModelPart):
    """An open_clip model; its image tower gives global semantics."""

    source: str = ""
    """Architecture of open_clip by name (`ViT-L-14-336-quickgelu`), whose image tower is read with
    `weights`; patch size, width and layers are then its own, and `image_size` where it is not
    given. Empty trains the small CLIP below."""
    weights: str = ""
    """A .safetensors, .pt or .pth file, or one of open_clip's pretrained tags for `source`, copied
    once by `bootstrap`."""
    image_size: int = Field(default=96, ge=16)
    """Side of the square input, pixels."""
    patch_size: int = Field(default=16, ge=4)
    width: int = Field(default=96, ge=16)
    layers: int = Field(default=3, ge=2)
    head_width: int = 32
    embed_dim: int = 96
    """Width of the joint image-text space."""
    text_width: int = 96
    text_layers: int = 1
    context_length: int = 40
    """Text tokens; longer captions are cut."""
    pool: Literal["avg", "tok"] = "avg"
    """How the image side is pooled for the contrast: `tok` is OpenAI's class token; `avg`, the mean
    over patches, teaches the patch tokens themselves, which are what the road reads."""
    feature_layer: int = -2
    """Block whose output is read; -2 is the penultimate one, as in LLaVA."""
    feature_layers: tuple[int, ...] = ()
    """Several blocks, from the first to the last, read side by side as channels: what `layer_merge`
    merges. Empty reads `feature_layer` alone."""
    class_token: bool = False
    """Whether CLIP's class token stands in front of the patches. SAM has none: there the mean of
    its tokens takes that place, so that both streams keep the same P."""
    intensity: IntensityName = "none"
    """How the greys of an image are standardised before this tower sees them, while it is trained
    and whenever it is used: see `llava_ultra.towers.intensity`."""
    pixel_mean: ChannelStatistics | None = None
    """What is taken from the pixels before `weights` see them; empty takes that of a pretrained
    tag, and OpenAI's for a file."""
    pixel_std: ChannelStatistics | None = None
    """What the pixels are then divided by; empty as above."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens per image (P)."""
        return self.grid**2 + self.class_token

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Blocks that are read, counted from 0."""
        layers = self.feature_layers or (self.feature_layer,)
        return tuple(layer % self.layers for layer in layers)

    @property
    def num_channels(self) -> int:
        """Channels per token (C1), all layers together."""
        return self.width * len(self.read_layers)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:  # noqa: ANN401 - whatever a caller gives
        if not isinstance(values, dict) or not values.get("source"):
            return values
        shape = _architecture(values["source"])
        if missing := [name for name in _SHAPE if name not in {**shape, **values}]:
            raise ValueError(
                f"open_clip does not say the {', '.join(missing)} of {values['source']!r}; "
                "give them under clip"
            )
        for name in set(shape) - {"image_size"}:
            if values.get(name, shape[name]) != shape[name]:
                raise ValueError(
                    f"clip.{name} {values[name]} is not that of {values['source']!r}, "
                    f"{shape[name]}; leave it out"
                )
        return {**shape, **values}

    @model_validator(mode="after")
    def _check(self) -> "ClipConfig":
        if bool(self.source) != bool(self.weights):
            raise ValueError(
                f"clip.source is {self.source!r} and clip.weights {self.weights!r}; an "
                "architecture and its weights go together: give both or neither"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"clip.image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.head_width:
            raise ValueError(
                f"clip.width {self.width} is no multiple of head_width {self.head_width}"
            )
        check_layers("clip.feature_layer", (self.feature_layer,), self.layers)
        if not self.source and self.text_width % self.head_width:
            raise ValueError(
                f"clip.text_width {self.text_width} is no multiple of head_width {self.head_width}"
            )
        check_layers("clip.feature_layers", self.feature_layers, self.layers)
        check_statistics("clip", self.weights, self.pixel_mean, self.pixel_std)
        return self


class SamConfig(ModelPart):
    """A segment_anything image encoder; its features keep fine detail."""

    weights: str = ""
    """A .safetensors, .pt or .pth file with SAM's weights as Meta or transformers name them, copied
    once by `bootstrap`; the fields below must be those of its encoder. Empty trains them."""
    image_size: int = Field(default=192, ge=32)
    """Side of the square input, pixels."""
    patch_size: int = Field(default=16, ge=4)
    width: int = Field(default=96, ge=16)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=3, ge=1)
    out_channels: int = 32
    """Channels after the neck (256 in the published SAM)."""
    window_size: int = 0
    """Side of the attention windows, patches; 0 attends globally."""
    global_layers: tuple[int, ...] = ()
    """Blocks that attend globally where `window_size` is not 0."""
    feature_layers: tuple[int, ...] = ()
    """Blocks, from the first to the last, read side by side as channels (`width` of each) in place
    of the neck. Empty reads the neck's output."""
    intensity: IntensityName = "none"
    """As for CLIP."""
    pixel_mean: ChannelStatistics | None = None
    """What is taken from the pixels; empty takes SAM's own with `weights`, or B-mode's where the
    tower is trained here."""
    pixel_std: ChannelStatistics | None = None
    """What the pixels are then divided by; empty as above."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Blocks that are read, counted from 0; none where the neck is."""
        return tuple(layer % self.layers for layer in self.feature_layers)

    @property
    def num_channels(self) -> int:
        """Channels of a cell of SAM's own grid, all layers together."""
        return self.width * len(self.read_layers) if self.read_layers else self.out_channels

    @property
    def norm_eps(self) -> float:
        """Epsilon of the LayerNorms: 1e-6 as Meta builds SAM, torch's own where it is trained."""
        return 1e-6 if self.weights else 1e-5

    @model_validator(mode="after")
    def _check(self) -> "SamConfig":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"sam.image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"sam.width {self.width} is no multiple of heads {self.heads}")
        check_layers("sam.feature_layers", self.feature_layers, self.layers)
        check_statistics("sam", self.weights, self.pixel_mean, self.pixel_std)
        return self


_SHAPE = ("image_size", "patch_size", "width", "layers")


@cache
def _architecture(name: str) -> dict[str, int]:
    """The shape that open_clip's own file gives an architecture; read without importing torch."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model_configs"
    path = folder / f"{name}.json"
    if path.parent != folder or not path.is_file():
        raise ValueError(
            f"clip.source {name!r} is no architecture of open_clip; "
            "python -c 'import open_clip; print(open_clip.list_models())' lists them"
        )
    vision = json.loads(path.read_text(encoding="utf-8"))["vision_cfg"]
    if not isinstance(vision.get("layers", 0), int):
        raise ValueError(
            f"clip.source {name!r} is a ResNet, which has no patches; choose a vision transformer"
        )
    shape = {key: vision[key] for key in _SHAPE if key in vision}
    if "timm_model_name" not in vision:
        shape["head_width"] = vision.get("head_width", 64)  # open_clip's own default
    return shape


def check_layers(name: str, given: tuple[int, ...], num_layers: int) -> None:
    """Refuse layers that do not exist, come twice or are out of order."""
    for layer in given:
        if not -num_layers <= layer < num_layers:
            raise ValueError(
                f"{name} has {layer}, which is none of the {num_layers} layers; "
                f"use {-num_layers} to {num_layers - 1}"
            )
    counted = [layer % num_layers for layer in given]
    if counted != sorted(set(counted)):
        raise ValueError(f"{name} {list(given)} must rise and name each layer once")


def check_statistics(
    part: str, weights: str, mean: ChannelStatistics | None, std: ChannelStatistics | None
) -> None:
    """Refuse statistics of a tower that is trained here, half of a pair, and a spread of 0."""
    if mean is not None and not weights:
        raise ValueError(
            f"{part}.pixel_mean is for published {part}.weights; a tower trained here sees B-mode's"
        )
    if (mean is None) != (std is None):
        raise ValueError(f"{part}.pixel_mean and {part}.pixel_std go together; give both or none")
    if std is not None and min(std) <= 0:
        raise ValueError(f"{part}.pixel_std {list(std)} must be above 0")
