"""Features of images, wherever they are: read from the stores, or computed here and kept nowhere.

`embed.keep` names the towers whose features are stored. The others run in whatever process needs
their features: the loading actors of a training, the actors of an evaluation. Such a process
decodes images of the table, runs the tower in batches of `embed.batch_size`, the last one filled up
with blank images, and rounds the result as the store would have. A batch of fixed size makes an
image's features the same whatever stands beside it, so that a model trained on streamed features
has the weights of one trained on stored ones, bit for bit.

What it costs: every image goes through the tower once an epoch, and not once; and training waits
for it, unless the actors are faster than its steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava_ultra.config import ModelConfig
from llava_ultra.parameters.precision_names import Precision
from sonoray.features.formats import Features
from sonoray.features.store import FeatureStore
from sonoray.study.contract import StudyImage
from sonoray.study.image_reader import ImageReader
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embed_pipeline import Encoder, Look, TowerStage, encode_in_batches
from sonoray_jobs.towers.views import ImageViews, views_of

if TYPE_CHECKING:
    from llava_ultra.batch import StudyFeatures
    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.mix.mix_tower import MixTower
    from llava_ultra.towers.sam import SamTower


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSource:
    """Where features come from; goes to the processes that read them."""

    dataset: Path
    """Dataset folder."""
    stores: Mapping[str, FeatureStore]
    """Stores by tower; of a streamed tower for its shape and format alone."""
    streamed: tuple[TowerStage, ...] = ()
    """Towers whose features are computed."""
    batch_size: int = 1
    """Images of each of their forward passes."""
    views: ImageViews | None = None
    """What else there is of an image: views in training, conditions in a judgement."""

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's features, of all towers."""
        return sum(
            store.shape[0] * store.shape[1] * store.dtype.itemsize for store in self.stores.values()
        )


class FeatureReader:
    """Reads the features of a source; holds the towers that are streamed."""

    def __init__(self, source: FeatureSource) -> None:
        self.source = source
        self._encoders = [(stage, stage.load()) for stage in source.streamed]
        self._images = ImageReader(source.dataset)

    def read(self, images: Sequence[StudyImage], views: Sequence[int] = ()) -> dict[str, Features]:
        """Return by tower the features of these images, `(N, P, C)` in the store's dtype.

        Args:
            images: N images.
            views: which view of each; by default the images themselves.
        """
        streamed = {stage.name for stage in self.source.streamed}
        ids = [
            self._key(image.image_id, view)
            for image, view in zip(images, views or [0] * len(images), strict=True)
        ]
        features = {
            tower: store.read(ids)
            for tower, store in self.source.stores.items()
            if tower not in streamed
        }
        if streamed:
            features |= self._compute(images, ids)
        return {tower: features[tower] for tower in self.source.stores}

    def read_studies(
        self, studies: Sequence[Sequence[StudyImage]], views: Sequence[int] = ()
    ) -> "list[StudyFeatures]":
        """Return the features of several studies, given by their images.

        Args:
            studies: the images of each.
            views: which view of each study's images; by default the images themselves.
        """
        numbers = views or [0] * len(studies)
        features = self.read(
            [image for images in studies for image in images],
            [view for view, images in zip(numbers, studies, strict=True) for _ in images],
        )
        return split_by_study(features, [len(images) for images in studies])

    def _key(self, image_id: str, view: int) -> str:
        return self.source.views.keys([image_id], view)[0] if self.source.views else image_id

    def _draw(self, key: str, image: StudyImage) -> np.ndarray:
        pixels = self._images.read(image)
        if key == image.image_id:
            return pixels
        assert self.source.views is not None
        return self.source.views.draw(pixels, key)

    def _compute(self, images: Sequence[StudyImage], keys: Sequence[str]) -> dict[str, Features]:
        """Each image, or view of one, once, however often it is asked for."""
        unique = dict(zip(keys, images, strict=True))
        places = {key: place for place, key in enumerate(unique)}
        rows = [places[key] for key in keys]
        computed: dict[str, list[Features]] = {stage.name: [] for stage, _ in self._encoders}
        waiting = list(unique.items())
        size = self.source.batch_size
        for start in range(0, len(waiting), size):  # pixels of one batch at a time
            pixels = [self._draw(key, image) for key, image in waiting[start : start + size]]
            for stage, encode in self._encoders:
                canvases = np.stack([stage.look.canvas(image) for image in pixels])
                features = encode_in_batches(encode, [canvases], size)
                computed[stage.name].append(stage.store.as_read(features))
        return {tower: np.concatenate(parts)[rows] for tower, parts in computed.items()}


def split_by_study(
    features: Mapping[str, Features], counts: Sequence[int]
) -> "list[StudyFeatures]":
    """Cut all towers' features, `(N, P, C)` by tower, into studies of so many images."""
    from llava_ultra.batch import StudyFeatures

    ends = np.cumsum(counts)[:-1]
    cut = [np.split(values, ends) for values in features.values()]
    return [
        StudyFeatures.of_towers(dict(zip(features, own, strict=True)))
        for own in zip(*cut, strict=True)
    ]


def feature_source(
    embed: EmbedConfig,
    *,
    model: ModelConfig,
    dataset: Path,
    folders: Mapping[str, Path],
    stores: Mapping[str, FeatureStore],
    device: str | None = None,
) -> FeatureSource:
    """Where a job gets features from: stores, and the towers that `embed.keep` does not name.

    Args:
        embed: how towers run, and whose features are stored.
        model: how the towers are shown images.
        dataset: dataset folder.
        folders: where the towers lie, by tower.
        stores: feature stores by tower.
        device: where the towers run; by default as in the embed stage.
    """
    streamed = {tower: folder for tower, folder in folders.items() if not embed.keeps(tower)}
    return FeatureSource(
        dataset=dataset,
        stores=stores,
        streamed=tuple(tower_stages(embed, model, streamed, stores, device)),
        batch_size=embed.batch_size,
        views=views_of(embed) if embed.views else None,
    )


def tower_stages(
    embed: EmbedConfig,
    model: ModelConfig,
    folders: Mapping[str, Path],
    stores: Mapping[str, FeatureStore],
    device: str | None = None,
) -> list[TowerStage]:
    """The pipeline's stages of saved towers, by tower: its folder and its store."""
    further = {tower.name: tower.encoder for tower in model.towers}
    looks = {
        tower: Look(image_size=shown.image_size, intensity=shown.intensity)
        for tower, shown in {"clip": model.clip, "sam": model.sam, **further}.items()
    }
    device = device or ("cuda" if embed.actor_gpus else "cpu")
    return [
        TowerStage(
            name=tower,
            look=looks[tower],
            store=stores[tower],
            load=partial(
                load_encoder, tower, folders[tower], stores[tower], device, embed.precision
            ),
        )
        for tower in folders
    ]


def load_encoder(
    tower: str,
    folder: Path,
    store: FeatureStore,
    device: str,
    precision: Precision = "float32",
) -> Encoder:
    """Load a tower as a function from canvases to features.

    Raises:
        ValueError: files are missing, it is not the tower that the store belongs to, or the device
            lacks the precision.
    """
    import torch

    from llava_ultra.digests.state_digest import check_digest
    from llava_ultra.parameters.products import DTYPES, check_precision
    from llava_ultra.towers.lowered import lower_tower
    from llava_ultra.towers.tower import encode_canvases

    loaded = _load_tower(tower, folder)
    check_digest(str(folder), found=loaded.fingerprint, expected=store.fingerprint)
    check_precision(precision, torch.device(device).type, "embed.precision")
    lower_tower(loaded, DTYPES[precision])
    loaded = loaded.to(device)
    return lambda canvases: encode_canvases(loaded, canvases, device).cpu().numpy()


def _load_tower(tower: str, folder: Path) -> "ClipTower | SamTower | MixTower":
    """Load a tower, and of the libraries the one that it is made of."""
    if tower == "clip":
        from llava_ultra.towers.clip import ClipTower

        return ClipTower.load(folder)
    if tower == "sam":
        from llava_ultra.towers.sam import SamTower

        return SamTower.load(folder)
    from llava_ultra.towers.mix.mix_tower import MixTower

    return MixTower.load(folder)
