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
from sonoray.features.formats import Features
from sonoray.features.store import FeatureStore
from sonoray.study.contract import StudyImage
from sonoray.study.image_reader import ImageReader
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embed_pipeline import Encoder, TowerStage, encode_in_batches

if TYPE_CHECKING:
    from llava_ultra.batch import StudyFeatures
    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.sam import SamTower


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSource:
    """Where features come from; goes to the processes that read them."""

    dataset: Path
    """Dataset folder."""
    stores: Mapping[str, FeatureStore]
    """Stores by tower, `clip` and `sam`; of a streamed tower for its shape and format alone."""
    streamed: tuple[TowerStage, ...] = ()
    """Towers whose features are computed."""
    batch_size: int = 1
    """Images of each of their forward passes."""

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's features, of both towers."""
        return sum(
            store.shape[0] * store.shape[1] * store.dtype.itemsize for store in self.stores.values()
        )


class FeatureReader:
    """Reads the features of a source; holds the towers that are streamed."""

    def __init__(self, source: FeatureSource) -> None:
        self.source = source
        self._encoders = [(stage, stage.load()) for stage in source.streamed]
        self._images = ImageReader(source.dataset)

    def read(self, images: Sequence[StudyImage]) -> dict[str, Features]:
        """Return by tower the features of these images, `(N, P, C)` in the store's dtype."""
        streamed = {stage.name for stage in self.source.streamed}
        ids = [image.image_id for image in images]
        features = {
            tower: store.read(ids)
            for tower, store in self.source.stores.items()
            if tower not in streamed
        }
        if streamed:
            features |= self._compute(images)
        return {tower: features[tower] for tower in self.source.stores}

    def read_studies(self, studies: Sequence[Sequence[StudyImage]]) -> "list[StudyFeatures]":
        """Return the features of several studies, given by their images."""
        features = self.read([image for images in studies for image in images])
        return split_by_study(features, [len(images) for images in studies])

    def _compute(self, images: Sequence[StudyImage]) -> dict[str, Features]:
        """Each image once, however often it is asked for."""
        unique = {image.image_id: image for image in images}
        places = {image_id: place for place, image_id in enumerate(unique)}
        rows = [places[image.image_id] for image in images]
        computed: dict[str, list[Features]] = {stage.name: [] for stage, _ in self._encoders}
        waiting = list(unique.values())
        size = self.source.batch_size
        for start in range(0, len(waiting), size):  # pixels of one batch at a time
            pixels = [self._images.read(image) for image in waiting[start : start + size]]
            for stage, encode in self._encoders:
                canvases = _canvases(pixels, stage.image_size)
                features = encode_in_batches(encode, [canvases], size)
                computed[stage.name].append(stage.store.as_read(features))
        return {tower: np.concatenate(parts)[rows] for tower, parts in computed.items()}


def split_by_study(
    features: Mapping[str, Features], counts: Sequence[int]
) -> "list[StudyFeatures]":
    """Cut both towers' features, `(N, P, C)` by tower, into studies of so many images."""
    from llava_ultra.batch import StudyFeatures

    ends = np.cumsum(counts)[:-1]
    clip, sam = (np.split(features[tower], ends) for tower in ("clip", "sam"))
    return [StudyFeatures(clip=one, sam=other) for one, other in zip(clip, sam, strict=True)]


def _canvases(pixels: Sequence[np.ndarray], size: int) -> np.ndarray:
    from llava_ultra.towers.pixels import letterbox

    return np.stack([letterbox(image, size) for image in pixels])


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
        model: sizes of the towers' images.
        dataset: dataset folder.
        folders: where the towers lie, by tower.
        stores: feature stores by tower.
        device: where the towers run; by default as in the embed stage.
    """
    streamed = {tower: folder for tower, folder in folders.items() if tower not in embed.kept}
    return FeatureSource(
        dataset=dataset,
        stores=stores,
        streamed=tuple(tower_stages(embed, model, streamed, stores, device)),
        batch_size=embed.batch_size,
    )


def tower_stages(
    embed: EmbedConfig,
    model: ModelConfig,
    folders: Mapping[str, Path],
    stores: Mapping[str, FeatureStore],
    device: str | None = None,
) -> list[TowerStage]:
    """The pipeline's stages of saved towers, by tower: its folder and its store."""
    sizes = {"clip": model.clip.image_size, "sam": model.sam.image_size}
    device = device or ("cuda" if embed.actor_gpus else "cpu")
    return [
        TowerStage(
            name=tower,
            image_size=sizes[tower],
            store=stores[tower],
            load=partial(load_encoder, tower, folders[tower], stores[tower], device),
        )
        for tower in folders
    ]


def load_encoder(tower: str, folder: Path, store: FeatureStore, device: str) -> Encoder:
    """Load a tower as a function from canvases to features.

    Raises:
        ValueError: files are missing, or it is not the tower that the store belongs to.
    """
    from llava_ultra.digests.state_digest import check_digest
    from llava_ultra.towers.tower import encode_canvases

    loaded = _load_tower(tower, folder)
    check_digest(str(folder), found=loaded.fingerprint, expected=store.fingerprint)
    loaded = loaded.to(device)
    return lambda canvases: encode_canvases(loaded, canvases, device).cpu().numpy()


def _load_tower(tower: str, folder: Path) -> "ClipTower | SamTower":
    """Load a tower, and of the two libraries the one that it is made of."""
    if tower == "clip":
        from llava_ultra.towers.clip import ClipTower

        return ClipTower.load(folder)
    from llava_ultra.towers.sam import SamTower

    return SamTower.load(folder)
