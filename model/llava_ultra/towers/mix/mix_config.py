"""Configuration of the towers that a model reads beside its CLIP and its SAM.

A mix of encoders (Eagle, arXiv 2408.15998) has any number of them, each from published weights.
The shape of a vision model of transformers comes from its folder, read here without torch; it is
kept in the configuration, so that an exported model is read where the folder is not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from llava_ultra.towers.tower_config import (
    ChannelStatistics,
    ClipConfig,
    IntensityName,
    ModelPart,
    SamConfig,
    check_layers,
    check_statistics,
)

TowerKind = Literal["open_clip", "sam", "transformers"]
KINDS: tuple[TowerKind, ...] = get_args(TowerKind)
"""What further towers may be."""

OWN_TOWERS = ("clip", "sam")
"""Towers that every model has."""

_TAKEN = frozenset(
    (
        *OWN_TOWERS,
        *("language", "student", "connector", "adapter", "recognition", "both", "none"),
        *("start", "stop", "counts", "asked", "questions", "answers", "options"),
        *("reports", "classes", "condition", "study", "place"),
    )
)
"""What else is called by a name beside towers: parts of a model, choices, columns of rows."""

_SHAPE = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "image_size": "image_size",
    "patch_size": "patch_size",
}
"""By field: what transformers calls it."""


def _absent(value: object) -> bool:
    return value is None


class VisionConfig(ModelPart):
    """A vision transformer of transformers: DINOv2, ViT, the image side of CLIP or SigLIP."""

    weights: str = Field(min_length=1)
    """Its folder, with `config.json` and safetensors, copied once by `bootstrap`; the four fields
    that follow are those of `config.json` where they are not given."""
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    image_size: int = Field(ge=16)
    """Side of the square input, pixels; may be another one than the folder's where the model
    interpolates its position embeddings."""
    patch_size: int = Field(ge=4)
    feature_layer: int = -2
    """Block whose output is read; -2 is the penultimate one."""
    feature_layers: tuple[int, ...] = ()
    """Several blocks, from the first to the last, side by side as channels; empty reads one."""
    intensity: IntensityName = "none"
    """As for CLIP."""
    pixel_mean: ChannelStatistics | None = None
    """What is taken from the pixels; empty takes that of the folder's `preprocessor_config.json`,
    and ImageNet's where it has none."""
    pixel_std: ChannelStatistics | None = None
    """What the pixels are then divided by; empty as above."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Blocks that are read, counted from 0."""
        layers = self.feature_layers or (self.feature_layer,)
        return tuple(layer % self.layers for layer in layers)

    @property
    def num_channels(self) -> int:
        """Channels per token, all layers together."""
        return self.width * len(self.read_layers)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:  # noqa: ANN401 - whatever a caller gives
        if not isinstance(values, dict) or not values.get("weights"):
            return values
        if _SHAPE.keys() <= values.keys():  # an exported model, whatever lies at its path by now
            return values
        found = folder_shape(Path(values["weights"]))
        if missing := [name for name in _SHAPE if name not in {**found, **values}]:
            raise ValueError(
                f"transformers.weights {values['weights']!r} is no folder whose config.json tells "
                f"the {', '.join(missing)} of a vision transformer; check the path"
            )
        _check_shape(values, found, values["weights"])
        return {**found, **values}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"transformers.image_size {self.image_size} is no multiple of patch_size "
                f"{self.patch_size}"
            )
        check_layers("transformers.feature_layer", (self.feature_layer,), self.layers)
        check_layers("transformers.feature_layers", self.feature_layers, self.layers)
        check_statistics("transformers", self.weights, self.pixel_mean, self.pixel_std)
        return self


class FurtherTower(ModelPart):
    """One more tower, of published weights: `open_clip`, `sam` or `transformers`, one of them."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=32, examples=["dino", "sam_large"])
    """What fusions, feature stores and the exported model call it."""
    open_clip: ClipConfig | None = Field(default=None, exclude_if=_absent)
    """The image side of any architecture of open_clip, with its weights."""
    sam: SamConfig | None = Field(default=None, exclude_if=_absent)
    """SAM's encoder of another size or other weights; `weights` may also be the folder of a SAM
    that `sonoray bootstrap` trained."""
    transformers: VisionConfig | None = Field(default=None, exclude_if=_absent)
    """A vision transformer of transformers, by its folder."""
    target_grid: int = Field(default=0, ge=0)
    """Cells along one side of the grid that its features are stored on; 0: that of CLIP, which all
    fusions but `append` ask for. SAM's comes there by pixel-unshuffle where it is a multiple; else
    features are resized bilinearly."""

    @property
    def kind(self) -> TowerKind:
        """Which of the three is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def encoder(self) -> ClipConfig | SamConfig | VisionConfig:
        """The one that is given."""
        found: ClipConfig | SamConfig | VisionConfig = getattr(self, self.kind)
        return found

    @property
    def is_aligned(self) -> bool:
        """Whether it was trained beside texts, as CLIP was."""
        return self.open_clip is not None

    def inner_grid(self, grid: int) -> int:
        """The grid that the encoder hands out where `grid` is wanted; the rest is resized."""
        unshuffled = self.sam is not None and not self.sam.grid % grid
        return grid if unshuffled else self.encoder.grid

    def num_channels(self, grid: int) -> int:
        """Channels of a cell on a grid of that side."""
        cells = self.encoder.grid // self.inner_grid(grid) if self.sam is not None else 1
        return self.encoder.num_channels * cells**2

    @property
    def num_layers(self) -> int:
        """Layers side by side in its channels."""
        return max(1, len(self.encoder.read_layers))

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"tower {self.name!r} has {' and '.join(given) or 'none'} of {', '.join(KINDS)}; "
                "give one"
            )
        if self.name in _TAKEN:
            raise ValueError(
                f"tower name {self.name!r} is taken: a model has a part or a choice of that name; "
                "choose another"
            )
        if not self.encoder.weights:
            raise ValueError(
                f"tower {self.name!r} has no {self.kind}.weights; only CLIP and SAM of the model "
                "itself are trained here, so give published ones"
            )
        if self.open_clip is not None and self.open_clip.class_token:
            raise ValueError(
                f"tower {self.name!r} reads open_clip.class_token; only model.clip has one, leave "
                "it out"
            )
        return self


def check_folder(vision: VisionConfig) -> None:
    """Refuse weights that are no folder of a model of transformers, or one of another shape.

    Raises:
        ValueError: a file is missing, or tells another shape; the image size may differ.
    """
    folder = Path(vision.weights)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"transformers.weights {str(folder)!r} is no folder with config.json and safetensors; "
            "check the path, or save the model as safetensors"
        )
    _check_shape(vision.model_dump(), folder_shape(folder), vision.weights)


def _check_shape(given: Mapping[str, Any], found: Mapping[str, int], weights: str) -> None:
    for name in set(found) - {"image_size"}:
        if given.get(name, found[name]) != found[name]:
            raise ValueError(
                f"transformers.{name} {given[name]} is not that of {weights!r}, {found[name]}; "
                "leave it out"
            )


def folder_shape(folder: Path) -> dict[str, int]:
    """What a folder's `config.json` says of the vision model's shape; nothing where there is none.

    Of a model with a text side it is the vision side's.

    Raises:
        ValueError: it is no JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{str(path)!r} is no JSON; restore it") from None
    values = values.get("vision_config", values)
    found = {name: values.get(theirs) for name, theirs in _SHAPE.items()}
    return {name: value for name, value in found.items() if isinstance(value, int)}
