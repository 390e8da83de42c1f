"""From a dataset's images to features in stores: plan, room, pipeline, seal.

1. where a dataset is sealed (all of it was committed before), nothing is to do and Ray stays off;
2. a plan lists what the stores lack (`sonoray_jobs.towers.embed_plan`), its size and the disk's are
   compared;
3. the pipeline computes it (`sonoray_jobs.towers.embed_pipeline`);
4. the dataset is sealed.

Which towers and whose, the caller says: a road's (`sonoray_jobs.towers.embed`) or an exported
model's (`sonoray_jobs.evaluation.external`).
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.stages import StageOutput
from sonoray_jobs.outputs.stores import read_image_ids
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embed_pipeline import Done, Room, TowerStage, run_pipeline
from sonoray_jobs.towers.embed_plan import Plan, make_plan
from sonoray_jobs.towers.views import Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What the embed job did."""

    num_images: int
    num_computed: Mapping[str, int]
    """By tower: images and views that were computed now; the others stood in the store."""
    predicted_bytes: int
    """Size of both stores for this dataset, as predicted before the job."""
    busy_s: Mapping[str, float]
    """By step, `decode`, the towers' forward passes and `write`: seconds of work, of all its
    processes together."""
    elapsed_s: float
    num_views: int = 0
    """Perturbed views of training images, of all together."""
    streamed: Mapping[str, int] = field(default_factory=dict)
    """By tower that is not stored: images that a training runs it over, in all its epochs."""

    def lines(self) -> list[str]:
        """What a person reads."""
        later = [
            f"{tower} is not stored: a training computes it {count:,} times, an evaluation once an "
            "image"
            for tower, count in self.streamed.items()
        ]
        return [*(self._stored() if self.num_computed else []), *later]

    def _stored(self) -> list[str]:
        computed = ", ".join(f"{tower} {count}" for tower, count in self.num_computed.items())
        busy = ", ".join(f"{step} {seconds:.1f}" for step, seconds in self.busy_s.items())
        what = f"{self.num_images} images"
        if self.num_views:
            what += f" and {self.num_views} views of training images"
        if not any(self.num_computed.values()):
            return [f"all {what} were embedded before"]
        return [
            f"embedded {what} in {self.elapsed_s:.1f} s "
            f"(computed: {computed}; the rest was cached)",
            *([f"seconds of work: {busy}"] if busy else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "num_images": self.num_images,
            "num_views": self.num_views,
            "num_computed": dict(self.num_computed),
            "predicted_bytes": self.predicted_bytes,
            "busy_s": dict(self.busy_s),
            "elapsed_s": self.elapsed_s,
            "streamed": dict(self.streamed),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What a dataset has, and what was done about it."""

    num_images: int
    num_views: int
    computed: Mapping[str, int]
    busy_s: Mapping[str, float]


def embed_dataset(
    output: StageOutput,
    towers: Sequence[TowerStage],
    config: EmbedConfig,
    address: str | None = None,
    *,
    views: Views | None = None,
) -> Embedded:
    """Run any towers over an ingested dataset, each into its own store.

    Args:
        output: the dataset.
        towers: what to run; a tower is whatever its `load` returns.
        config: batches and room.
        address: the cluster, as for every job.
        views: what else is embedded of the images of training patients.

    Raises:
        ConfigError: a node lacks `embed.precision`.
        DataError: the disk is too small.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    start = time.monotonic()
    stores = [tower.store for tower in towers]
    seals = [output.key, *([views.seal(output.key)] if views else [])]
    sealed = [[store.num_sealed(seal) for seal in seals] for store in stores]
    if any(None in counts for counts in sealed):
        found = _compute(output.path, towers, config, address, views)
        for store in stores:
            for seal, count in zip(seals, (found.num_images, found.num_views), strict=False):
                store.seal(seal, count)
    else:
        names = [tower.name for tower in towers]
        counts = sealed[0] if sealed else [len(read_image_ids(output.path))]
        num_images, num_views = (*(count or 0 for count in counts), 0)[:2]
        found = _Found(
            num_images=num_images,
            num_views=num_views,
            computed=dict.fromkeys(names, 0),
            busy_s={},
        )
    total = found.num_images + found.num_views
    return Embedded(
        num_images=found.num_images,
        num_views=found.num_views,
        num_computed=found.computed,
        predicted_bytes=sum(store.predict_bytes(total) for store in stores),
        busy_s=found.busy_s,
        elapsed_s=time.monotonic() - start,
    )


def _compute(
    folder: Path,
    towers: Sequence[TowerStage],
    config: EmbedConfig,
    address: str | None,
    views: Views | None,
) -> "_Found":
    """Plan and compute; the sum over all pieces."""
    import ray

    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus

    stores = {tower.name: tower.store for tower in towers}
    with ray_session(address):
        room = _room_for(config, ray.cluster_resources(), len(towers))  # type: ignore[no-untyped-call]
        pools = 1 if room.one_pool else len(towers)
        require_cpus(
            pools * room.actor_cpus + (0 if room.actors_decode else room.decode_cpus),
            "embedding",
            num_gpus=pools * room.actor_gpus,
        )
        require_precisions({"embed.precision": config.precision}, uses_gpus=room.actor_gpus > 0)
        planning = ray.remote(num_cpus=0)(make_plan)
        asked = planning.remote(folder, stores, config.images_per_file, views)  # type: ignore[call-arg]
        plan: Plan = ray.get(asked)
        to_write = sum(
            store.predict_bytes(plan.num_lacking(tower)) for tower, store in stores.items()
        )
        _check_room(towers[0].store, to_write)
        logger.info("features will take %.1f MB", to_write / 1e6)
        computed, busy_s = Counter[str](dict.fromkeys(stores, 0)), Counter[str]()
        num_rows = 0
        if plan.pieces:
            for store in stores.values():
                store.make()
            pipeline = run_pipeline(plan.pieces, folder, towers, config.batch_size, room, views)
            for done in progress(pipeline, "embed images", plan.num_rows, size=_num_images):
                computed.update(done.computed)
                busy_s.update(done.busy_s)
                num_rows += done.num_images
    if num_rows != plan.num_rows:
        raise DataError(f"{num_rows} of {plan.num_rows} images came through; run: sonoray embed")
    return _Found(
        num_images=plan.num_images, num_views=plan.num_views, computed=computed, busy_s=busy_s
    )


def _num_images(done: Done) -> int:
    return done.num_images


def _room_for(embed: EmbedConfig, resources: Mapping[str, float], num_towers: int) -> Room:
    """The configured room; without a number of actors, as many as the cluster holds.

    One pool is filled at once: it needs all it can get, and an actor that comes later costs its
    start-up while others work. Of several pools, those grow that are waited for.
    """
    room = Room(
        decode_cpus=embed.decode_cpus,
        actors=(embed.actors, embed.actors),
        actor_cpus=embed.actor_cpus,
        actor_gpus=embed.actor_gpus,
    )
    if embed.actors:
        return room
    decoding = 0 if room.actors_decode else room.decode_cpus
    needs = {"CPU": embed.actor_cpus, "GPU": embed.actor_gpus}
    free = {"CPU": resources.get("CPU", 0) - decoding, "GPU": resources.get("GPU", 0)}
    most = min(int(free[kind] / need + 1e-9) for kind, need in needs.items() if need)
    if room.one_pool:
        return replace(room, actors=(max(1, most), max(1, most)))
    # The pools of the other towers need one each at least.
    return replace(room, actors=(1, max(1, most - (num_towers - 1))))


def _check_room(store: FeatureStore, needed_bytes: int) -> None:
    """Refuse what does not fit beside `store`, where all the towers' stores lie."""
    free = store.free_bytes()
    if free is not None and needed_bytes * 1.1 > free:
        raise DataError(
            f"features need {needed_bytes / 1e9:.1f} GB, the disk of {store.place!r} has "
            f"{free / 1e9:.1f} GB free; set embed.store to a folder with more, or use "
            "--set embed.dtype=int8"
        )
