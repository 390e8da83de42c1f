"""The Ray Data pipeline of the embed stage: pieces of the image table through the towers.

```
CPU:  pieces -> decode + letterbox, CLIP, SAM (one pool, all in one actor)  -> counts, busy seconds
GPU:  pieces -> decode + letterbox (CPU tasks) -> CLIP actors -> SAM actors -> counts, busy seconds
```

One row is one piece (`sonoray_jobs.towers.embed_plan`) from the plan to the last tower, so a
committed file holds the same images however the work is spread. A tower computes it in forward
batches, which may be smaller: the device's memory decides about these, and about nothing else. Ray
Data holds back tasks whose output nobody takes, so pixels in flight stay within its share of the
object store. A row that ends carries counts and the seconds that each step worked: the driver holds
nothing else, and can say which step was busy.

On CPUs a pool for each tower has nothing to win: its processes share the same cores, load torch
once more each, and wait for each other where one tower is heavier. One pool with an actor a core
that runs all towers reaches 0.90 to 0.93 of a plain loop's images/s instead of 0.68, on 10,000
phantom images and two cores (docs/performance.md). Where a decoding task and an actor ask for the
same share of CPUs, as by default, Ray Data lets the actors decode, too. On GPUs a tower has what
its actors ask for to itself, and decoding the CPUs.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.features.store import FeatureStore
from sonoray.images.decode import decode_stored
from sonoray_jobs.towers.embed_plan import Piece, read_piece
from sonoray_jobs.towers.views import Views

if TYPE_CHECKING:
    import numpy as np

    from llava_ultra.config import IntensityName

Encoder = Callable[["np.ndarray"], "np.ndarray"]
"""Canvases uint8 (N, S, S, 3) to features (N, P, C)."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a tower is shown an image."""

    image_size: int
    """S, side of its canvases in pixels."""
    intensity: "IntensityName" = "none"
    """How the greys are standardised."""

    def canvas(self, image: "np.ndarray") -> "np.ndarray":
        """An image, uint8 (H, W) or (H, W, 3), as uint8 (S, S, 3)."""
        from llava_ultra.towers.pixels import to_canvas

        return to_canvas(image, self.image_size, self.intensity)


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerStage:
    """One tower's place in the pipeline; goes to its actors."""

    name: str
    look: Look
    store: FeatureStore
    load: Callable[[], Encoder]
    """Loads the tower; called once in each actor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What the pipeline may take of the cluster."""

    decode_cpus: float
    """Of each decoding task."""
    actors: tuple[int, int]
    """Fewest and most actors of a pool."""
    actor_cpus: float
    actor_gpus: float

    @property
    def one_pool(self) -> bool:
        """Whether one pool runs all towers, and not one each."""
        return not self.actor_gpus

    @property
    def actors_decode(self) -> bool:
        """Whether Ray Data fuses decoding into the first pool's actors."""
        return not self.actor_gpus and self.decode_cpus == self.actor_cpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of one piece."""

    num_images: int
    computed: Mapping[str, int]
    """By tower: images that were computed and written."""
    busy_s: Mapping[str, float]
    """By step, `decode`, the towers' forward passes and `write`: seconds of work."""


def run_pipeline(
    pieces: Sequence[Piece],
    folder: Path,
    towers: Sequence[TowerStage],
    batch_size: int,
    room: Room,
    views: Views | None = None,
) -> Iterator[Done]:
    """Embed pieces in the running Ray session and yield what became of each, in any order."""
    import ray

    from sonoray.cluster.data_pause import pause_idle_loops

    pause_idle_loops()
    names = [tower.name for tower in towers]
    looks = {tower.name: tower.look for tower in towers}
    rows = ray.data.from_items([{"piece": piece} for piece in pieces]).map(
        partial(decode_piece, folder=folder, looks=looks, batch_size=batch_size, views=views),
        num_cpus=room.decode_cpus,
    )
    fewest, most = (min(number, len(pieces)) for number in room.actors)
    for pool in [towers] if room.one_pool else [[tower] for tower in towers]:
        rows = rows.map(
            TowerActor,  # type: ignore[arg-type]
            fn_constructor_args=tuple(pool),
            fn_constructor_kwargs={"batch_size": batch_size},
            compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
            num_cpus=room.actor_cpus,
            num_gpus=room.actor_gpus,
        )
    for row in rows.iter_rows():
        yield Done(
            num_images=row["num_images"],
            computed={name: row[f"computed.{name}"] for name in names},
            busy_s={step: row[f"busy_s.{step}"] for step in ("decode", *names, "write")},
        )


def decode_piece(
    row: Row,
    *,
    folder: Path,
    looks: Mapping[str, Look],
    batch_size: int,
    views: Views | None = None,
) -> Row:
    """Read and decode the images of a piece, and make canvases for each tower that lacks them.

    A tower's ids are one text, with a line for each forward batch (`take_batches`).
    """
    import numpy as np

    start, piece = time.perf_counter(), row["piece"]
    rows = list(read_piece(folder, piece))
    ids, pngs = [image_id for image_id, _ in rows], [png for _, png in rows]
    used = {place for tower in looks for place in piece.places(tower)}
    pixels = {place: decode_stored(png) for place, png in enumerate(pngs) if place in used}
    if piece.view:
        assert views is not None
        ids = views.keys(ids, piece.view)
        pixels = {place: views.draw(image, ids[place]) for place, image in pixels.items()}
    out: Row = {"num_images": len(ids)}
    for tower, look in looks.items():
        places, size = piece.places(tower), look.image_size
        canvases = np.zeros((len(places), size, size, 3), dtype=np.uint8)
        for row_of, place in enumerate(places):
            canvases[row_of] = look.canvas(pixels[place])
        out[f"ids.{tower}"] = "\n".join(
            " ".join(ids[place] for place in batch) for batch in piece.batches(tower, batch_size)
        )
        out[f"canvases.{tower}"] = canvases
    return out | {"busy_s.decode": time.perf_counter() - start, "busy_s.write": 0.0}


def take_batches(row: Row, tower: str) -> tuple[list[str], "list[np.ndarray]"]:
    """Take a tower's part out of a decoded row: its ids, and its canvases by forward batch."""
    import numpy as np

    lines = [line.split() for line in row.pop(f"ids.{tower}").splitlines()]
    ends = np.cumsum([len(line) for line in lines])
    canvases = np.split(row.pop(f"canvases.{tower}"), ends[:-1])
    return [each for line in lines for each in line], canvases


def encode_in_batches(
    encode: Encoder, batches: "Sequence[np.ndarray]", batch_size: int
) -> "np.ndarray":
    """Encode batches of canvases, each filled up to `batch_size` with blank ones.

    A forward pass of another size may add in another order: of fixed size, an image's features are
    the same whatever stands beside it.
    """
    import numpy as np

    features = []
    for canvases in batches:
        blank = np.zeros((batch_size - len(canvases), *canvases.shape[1:]), dtype=canvases.dtype)
        filled = np.concatenate([canvases, blank]) if len(blank) else canvases
        features.append(encode(filled)[: len(canvases)])
    return np.concatenate(features)


class TowerActor:
    """Towers in one process: each encodes what its store lacks."""

    def __init__(self, *stages: TowerStage, batch_size: int) -> None:
        from ray.util.metrics import Counter

        self._batch_size = batch_size
        self._towers = [(stage, stage.load()) for stage in stages]
        self._images = Counter(
            "sonoray_embedded_images", "Images that a tower computed.", tag_keys=("tower",)
        )

    def __call__(self, row: Row) -> Row:
        """Write the piece's features through; it goes on without these towers' canvases."""
        for stage, encode in self._towers:
            self._run(stage, encode, row)
        return row

    def _run(self, stage: TowerStage, encode: Encoder, row: Row) -> None:
        ids, batches = take_batches(row, stage.name)
        start = encoded = time.perf_counter()
        # A piece comes again where an actor died after its commit.
        if ids and not stage.store.holds(ids):
            features = encode_in_batches(encode, batches, self._batch_size)
            encoded = time.perf_counter()
            stage.store.write(ids, features)
            self._images.inc(len(ids), {"tower": stage.name})
        row[f"computed.{stage.name}"] = len(ids)
        row[f"busy_s.{stage.name}"] = encoded - start
        row["busy_s.write"] += time.perf_counter() - encoded
