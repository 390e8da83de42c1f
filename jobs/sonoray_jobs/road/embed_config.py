"""How the frozen towers run over the images, and which features are stored.

A module of its own, for the reason of `sonoray_jobs.road.train_config`: a training worker reads it
to find stored features, or to run the towers whose features are not.
"""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from llava_ultra.parameters.precision_names import Precision
from llava_ultra.perturbations.gallery import GALLERY, PerturbationConfig
from sonoray.config.model import Config
from sonoray.features.format_names import FormatName

Keep = Literal["both", "clip", "sam", "none"]
"""Towers whose features are stored."""


class EmbedConfig(Config):
    """How the frozen towers run over the images."""

    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass, as many as fit the device. Another number may change features in
    the last bits."""
    images_per_file: int = Field(default=64, ge=1)
    """Images per committed file of the feature store, a multiple of `batch_size`: tens of MB make
    few files, and an interrupted job loses one of them for each actor. The image table is read in
    groups of 64 rows, fastest by multiples or even parts, and ends a file after 512."""
    decode_cpus: float = Field(default=1, gt=0)
    """Logical CPUs of a decoding task; on CPUs, where it is `actor_cpus`, the actors decode."""
    actors: int = Field(default=0, ge=0)
    """Actors of a pool; 0: as many as the cluster holds, of several pools in that which is waited
    for."""
    actor_cpus: float = Field(default=1, ge=0)
    """Logical CPUs of an actor."""
    actor_gpus: float = Field(default=0, ge=0)
    """GPU share of an actor; above 0 each tower has a pool of its own there, else one has all."""
    store: str = ""
    """Where features go: the workspace where empty, a folder that all nodes see, or
    `s3://bucket/prefix`. Endpoint and keys stand in the environment of every node
    (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`)."""
    keep: Keep = "both"
    """Whose features are stored; `both` means all towers. Those of the others take no space: the
    actors that answer an evaluation's questions compute them, and those that load a training's
    steps, once an epoch, with `actor_cpus` and `actor_gpus` each; with half a GPU, two share one
    and the decoding of one hides behind the other. On the same kind of device a model is the same
    either way."""
    precision: Precision = "float32"
    """What the towers multiply in, when they are embedded, streamed or served."""
    dtype: FormatName = "float16"
    """How features are stored; int8 takes half of float16's space (`sonoray.features.formats`)."""
    views: int = Field(default=0, ge=0, le=64)
    """Perturbed views of each training image that are embedded beside it, each at its cost in time
    and space; a training goes through image and views in a cycle, an epoch each."""
    perturbations: tuple[PerturbationConfig, ...] = GALLERY
    """What happens to an image in its views, in this order, each with its `rate` and at most its
    strength: `zoom`, `blur`, `gain`, `speckle`, `gamma`, `jpeg`; there are also `shadow`, `haze`,
    `caliper`, `tint`."""

    def keeps(self, tower: str) -> bool:
        """Whether a tower's features are stored."""
        return self.keep in ("both", tower)

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: str) -> str:
        if not re.fullmatch(r"|/.*|s3://[a-z0-9.-]+(/(?!\.\.?(/|$))[A-Za-z0-9._=-]+)*/?", store):
            raise ValueError(
                "it must be the path of a folder from /, or s3://bucket/prefix of letters, digits, "
                ". _ = -"
            )
        return store

    @model_validator(mode="after")
    def _check(self) -> "EmbedConfig":
        if not self.actor_cpus and not self.actor_gpus:
            raise ValueError("embed.actor_cpus 0 needs embed.actor_gpus above 0; set one of them")
        above = -(-self.images_per_file // self.batch_size) * self.batch_size
        if above != self.images_per_file:
            raise ValueError(
                f"embed.images_per_file {self.images_per_file} is no multiple of embed.batch_size "
                f"{self.batch_size}, so that files would change what is computed together; set "
                f"embed.images_per_file to {above}"
            )
        return self
