"""Perturbed views of training images, whose features are stored beside those of the images.

The towers are frozen and an image's features are computed once, so that a training sees the same
numbers of it in every epoch, but for noise. With `embed.views` each training image is also embedded
as some views, as other scanners might have shown it (`llava_ultra.perturbations`), and a training
goes through image and views in a cycle. Everything else sees the images alone.

A view's features have a key of their own, a hash of image, perturbations and number; its seed is
the key. So the same settings find what is stored, whatever their number, and any process draws the
same view.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llava_ultra.perturbations.gallery import PerturbationConfig, draw_view
from sonoray.config.canonical import content_hash

if TYPE_CHECKING:
    from sonoray_jobs.road.embed_config import EmbedConfig


class ImageViews(Protocol):
    """Other pictures of an image, by number; view 0 is the image itself, under its own id."""

    def keys(self, image_ids: Sequence[str], view: int) -> list[str]:
        """Names of a view of these images."""
        ...

    def draw(self, image: np.ndarray, key: str) -> np.ndarray:
        """The view of an image that has this name, uint8 like the image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """The views of every training image; view 0 is the image itself."""

    number: int
    """Of each image, beside itself."""
    perturbations: tuple[PerturbationConfig, ...]
    """What may happen to one, in this order."""

    @property
    def digest(self) -> str:
        """Names the perturbations."""
        return content_hash([each.model_dump(mode="json") for each in self.perturbations])

    def keys(self, image_ids: Sequence[str], view: int) -> list[str]:
        """What the features of a view of these images are stored under."""
        if not view:
            return list(image_ids)
        prefix = f"view {view} {self.digest} "
        return [hashlib.sha256((prefix + image_id).encode()).hexdigest() for image_id in image_ids]

    def seal(self, dataset: str) -> str:
        """What a store is sealed under that holds all views of a dataset."""
        return f"{dataset}-views-{self.number}-{self.digest}"

    def draw(self, image: np.ndarray, key: str) -> np.ndarray:
        """The view of an image that has this key, uint8 like the image."""
        return draw_view(image, self.perturbations, int(key, 16))

    def of_epoch(self, image_id: str, *, seed: int, epoch: int) -> int:
        """The view that an epoch of a plan with this seed sees of an image.

        A cycle through the image and its views, in an order of its own for each image: over the
        epochs each is seen equally often, give or take one.
        """
        order = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
        return int(order.permutation(self.number + 1)[epoch % (self.number + 1)])


def views_of(embed: "EmbedConfig") -> Views:
    """The views that a road's training sees."""
    return Views(number=embed.views, perturbations=embed.perturbations)
