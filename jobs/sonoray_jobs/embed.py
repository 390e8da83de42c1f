"""Embed: run the frozen towers over every unique image, once.

```
image table -> drop what both stores hold -> decode + letterbox (CPU tasks)
            -> CLIP actors -> SAM actors  (each writes what its store lacks) -> counts
```

The stores are keyed by image and tower fingerprint, so a rerun computes nothing, an interrupted job
goes on where its last committed batch ended, and a changed tower starts a store of its own.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.feature_store import FeatureStore
from sonoray.images import decode_stored
from sonoray.stages import StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.bootstrap import find_parts
from sonoray_jobs.road import RoadConfig

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

logger = logging.getLogger(__name__)

TOWERS = ("clip", "sam")


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What the embed job did."""

    num_images: int
    num_computed: Mapping[str, int]
    """By tower: images that were computed now; the others stood in the store."""
    predicted_bytes: int
    """Size of both stores for this dataset, as predicted before the job."""
    elapsed_s: float

    def lines(self) -> list[str]:
        """What a person reads."""
        computed = ", ".join(f"{tower} {count}" for tower, count in self.num_computed.items())
        return [
            f"embedded {self.num_images} images in {self.elapsed_s:.1f} s "
            f"(computed: {computed}; the rest was cached)"
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "num_images": self.num_images,
            "num_computed": dict(self.num_computed),
            "predicted_bytes": self.predicted_bytes,
            "elapsed_s": self.elapsed_s,
        }


def open_stores(workspace: Workspace, road: RoadConfig, dataset: str) -> dict[str, FeatureStore]:
    """Open the feature stores of the road's towers.

    Raises:
        DataError: the towers were not bootstrapped yet.
    """
    fingerprints = tower_fingerprints(find_parts(workspace, road, dataset))
    return stores_of(workspace.features, road, fingerprints)


def tower_fingerprints(parts: Mapping[str, StageOutput]) -> dict[str, str]:
    """Fingerprint of each tower among the bootstrapped parts."""
    return {tower: parts[tower].manifest["summary"]["fingerprint"] for tower in TOWERS}


def stores_of(
    root: Path, road: RoadConfig, fingerprints: Mapping[str, str]
) -> dict[str, FeatureStore]:
    """Open the stores of the towers with these fingerprints, in the road's shapes."""
    model = road.model
    shapes = {
        "clip": (model.clip.num_tokens, model.clip.num_channels),
        "sam": (model.clip.grid**2, model.sam_channels),
    }
    return {
        tower: FeatureStore(
            root,
            fingerprint,
            num_tokens=shapes[tower][0],
            num_channels=shapes[tower][1],
            dtype=road.embed.dtype,
        )
        for tower, fingerprint in fingerprints.items()
    }


def run(
    *, workspace: Workspace, road: RoadConfig, dataset: str, address: str | None = None
) -> Embedded:
    """Fill the feature stores for all images of the dataset.

    Raises:
        DataError: the dataset or the towers are missing, or the disk is too small.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    start = time.monotonic()
    folder = workspace.dataset(dataset).path
    stores = open_stores(workspace, road, dataset)
    image_ids = read_image_ids(folder)
    missing = {tower: set(store.missing(image_ids)) for tower, store in stores.items()}
    predicted = sum(store.predict_bytes(len(image_ids)) for store in stores.values())
    if any(missing.values()):
        to_write = sum(stores[tower].predict_bytes(len(ids)) for tower, ids in missing.items())
        _check_disk(workspace.root, to_write)
        logger.info("features will take %.1f MB", to_write / 1e6)
        _compute(workspace, road, dataset, address, stores, missing)
    return Embedded(
        num_images=len(image_ids),
        num_computed={tower: len(ids) for tower, ids in missing.items()},
        predicted_bytes=predicted,
        elapsed_s=time.monotonic() - start,
    )


def read_image_ids(folder: Path) -> list[str]:
    """Ids of a dataset's unique images, in the table's order."""
    import pyarrow.dataset as ds

    ids: list[str] = ds.dataset(folder / "images").to_table(columns=["image_id"])[0].to_pylist()
    return ids


def _compute(
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    address: str | None,
    stores: Mapping[str, FeatureStore],
    missing: Mapping[str, set[str]],
) -> None:
    import ray

    from sonoray.cluster import ray_session, require_cpus
    from sonoray.progress import progress

    parts = find_parts(workspace, road, dataset)
    folder = workspace.dataset(dataset).path
    embed = road.embed
    todo = set().union(*missing.values())
    sizes = {"clip": road.model.clip.image_size, "sam": road.model.sam.image_size}
    num_actors = len(TOWERS) * embed.actors
    with ray_session(address):
        require_cpus(
            num_actors * embed.actor_cpus + embed.decode_cpus,
            "embedding",
            num_gpus=num_actors * embed.actor_gpus,
        )
        images = ray.data.read_parquet(str(folder / "images"), columns=["image_id", "png"])
        canvases = images.map_batches(
            _decode_batch,  # type: ignore[arg-type]
            fn_kwargs={"todo": todo, "sizes": sizes},
            batch_size=embed.batch_size,
            batch_format="pyarrow",
            num_cpus=embed.decode_cpus,
        )
        for tower in TOWERS:
            canvases = canvases.map_batches(
                TowerActor,
                fn_constructor_kwargs={
                    "tower": tower,
                    "folder": parts[tower].path,
                    "store": stores[tower],
                    "device": "cuda" if embed.actor_gpus else "cpu",
                },
                batch_size=embed.batch_size,
                compute=ray.data.ActorPoolStrategy(size=embed.actors),
                num_cpus=embed.actor_cpus,
                num_gpus=embed.actor_gpus,
            )
        rows = canvases.iter_rows()
        done = sum(1 for _ in progress(rows, "embed images", total=len(todo)))
    if done != len(todo):
        raise DataError(f"{done} of {len(todo)} images came through; run sonoray embed again")


def _decode_batch(batch: "pa.Table", *, todo: set[str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Decode and letterbox the images that some store lacks."""
    import numpy as np

    from llava_ultra.pixels import letterbox

    ids, images = [], []
    for row in batch.to_pylist():
        if row["image_id"] in todo:
            ids.append(row["image_id"])
            images.append(decode_stored(row["png"]))
    columns: dict[str, Any] = {"image_id": np.array(ids, dtype=object)}
    for tower, size in sizes.items():
        shape = (0, size, size, 3)
        canvases = [letterbox(image, size) for image in images]
        columns[tower] = np.stack(canvases) if canvases else np.empty(shape, dtype=np.uint8)
    return columns


class TowerActor:
    """One tower in one process: encodes what its store lacks and hands the rest on."""

    def __init__(self, tower: str, folder: Path, store: FeatureStore, device: str) -> None:
        """Load the tower.

        Raises:
            ValueError: files are missing, or it is not the tower that the store belongs to.
        """
        from llava_ultra.digest import check_digest
        from llava_ultra.towers import ClipTower, SamTower

        loaded = ClipTower.load(folder) if tower == "clip" else SamTower.load(folder)
        check_digest(str(folder), found=loaded.fingerprint, expected=store.folder.name)
        self._tower = loaded.to(device)
        self._column = tower
        self._store = store
        self._device = device

    def __call__(self, batch: dict[str, "np.ndarray"]) -> dict[str, "np.ndarray"]:
        """Write the batch's features through; the batch goes on without this tower's canvases."""
        from llava_ultra.towers import encode_canvases

        canvases = batch.pop(self._column)
        ids = [str(image_id) for image_id in batch["image_id"]]
        lacking = set(self._store.missing(ids))
        rows = [row for row, image_id in enumerate(ids) if image_id in lacking]
        if rows:
            features = encode_canvases(self._tower, canvases[rows], self._device)
            self._store.write([ids[row] for row in rows], features.cpu().numpy())
        return batch


def _check_disk(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if needed_bytes * 1.1 > free:
        raise DataError(
            f"features need {needed_bytes / 1e9:.1f} GB, the disk of {str(root)!r} has "
            f"{free / 1e9:.1f} GB free; choose another --workspace or embed.dtype float16"
        )
