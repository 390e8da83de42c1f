"""One way of embedding a phantom dataset, in a process of its own; prints what it did as JSON.

- `pipeline`: the embed job.
- `plain_loop`: one process a core, each with both towers, taking the same pieces in turn: the same
  reading, decoding, forward passes and stores, without Ray.
- `data_loader`: what one would write: torch's DataLoader over a folder of PNG files with a worker a
  core, both encoders in the main process with a thread a core, one `np.save` an image and tower.

The first two run on one thread a process. `throughput.py` calls this file. torch is imported by the
ways that need it: the embed job's driver does not.
"""

import argparse
import json
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from material import open_towers
from PIL import Image
from record import peak_bytes

from sonoray.features.store import FeatureStore
from sonoray.stages import StageOutput, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embed_pipeline import Encoder, TowerStage, decode_piece, take_batches
from sonoray_jobs.towers.embed_plan import Piece, make_plan
from sonoray_jobs.towers.embedding import embed_dataset

if TYPE_CHECKING:
    from torch import Tensor

WAYS = ("pipeline", "plain_loop", "data_loader")


def main() -> None:
    """Go the asked way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("home", type=Path, help="workspace with dataset and towers")
    parser.add_argument("dataset", type=Path, help="folder of the ingested dataset")
    parser.add_argument("features", type=Path, help="workspace that takes the features")
    given = parser.parse_args()
    home, features = Workspace.open(given.home), Workspace.open(given.features)
    road = RoadConfig.model_validate_json((given.home / "road.json").read_text())
    output = StageOutput(path=given.dataset, manifest=read_manifest(given.dataset), reused=True)
    towers = open_towers(home, features, road)
    result: dict[str, Any]
    if given.way == "pipeline":
        result = embed_dataset(output, towers, road.embed).to_json()
    elif given.way == "plain_loop":
        result = plain_loop(output.path, towers, road.embed)
    else:
        result = data_loader(home.root / "png", features.root / "npy", home, road)
    if given.way != "data_loader":
        stores = [tower.store for tower in towers]
        rate = images_per_second(stores, result["num_images"])
        result |= {"images_per_second": rate, "stored_bytes": stored_bytes(stores)}
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


def images_per_second(stores: list[FeatureStore], num_images: int) -> float:
    """The rate between the first commit and the last, of both towers together."""
    commits = sorted(path.stat().st_mtime for store in stores for path in _batches(store))
    share = 1 - 1 / len(commits)  # what was done before the first of them is not in the time
    return num_images * share / (commits[-1] - commits[0])


def stored_bytes(stores: list[FeatureStore]) -> int:
    """Size of the batches on disk."""
    return sum(path.stat().st_size for store in stores for path in _batches(store))


def _batches(store: FeatureStore) -> list[Path]:
    return list(Path(store.place).glob("batch-*.arrow"))


_encoders: dict[str, Encoder] = {}
"""Of this process of the plain loop."""


def _load_encoders(towers: list[TowerStage]) -> None:
    import torch

    torch.set_num_threads(1)
    _encoders.update({tower.name: tower.load() for tower in towers})


def _embed_piece(piece: Piece, *, folder: Path, towers: list[TowerStage], batch_size: int) -> int:
    looks = {tower.name: tower.look for tower in towers}
    row = decode_piece({"piece": piece}, folder=folder, looks=looks, batch_size=batch_size)
    for tower in towers:
        ids, batches = take_batches(row, tower.name)
        encode = _encoders[tower.name]
        tower.store.write(ids, np.concatenate([encode(canvases) for canvases in batches]))
    num_images: int = row["num_images"]
    return num_images


def plain_loop(folder: Path, towers: list[TowerStage], config: EmbedConfig) -> dict[str, Any]:
    """Embed with plain processes; whoever is idle takes the next piece."""
    stores = {tower.name: tower.store for tower in towers}
    plan = make_plan(folder, stores, config.images_per_file)
    work = partial(_embed_piece, folder=folder, towers=towers, batch_size=config.batch_size)
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), _load_encoders, (towers,)) as pool:
        num_images = sum(pool.imap_unordered(work, plan.pieces))
    return {"num_images": num_images}


class Pictures:
    """A folder of PNG files as the towers' inputs, as torch's DataLoader reads them."""

    def __init__(self, folder: Path, sizes: dict[str, int]) -> None:
        self._files = sorted(folder.glob("*.png"))
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> "tuple[str, dict[str, Tensor]]":
        """The file's name, and by tower its pixels (3, S, S)."""
        from llava_ultra.towers.pixels import letterbox, normalise

        file = self._files[number]
        pixels = np.asarray(Image.open(file).convert("RGB"))
        return file.stem, {
            name: normalise(letterbox(pixels, size)[None])[0] for name, size in self._sizes.items()
        }


def data_loader(png: Path, npy: Path, home: Workspace, road: RoadConfig) -> dict[str, Any]:
    """Embed as one would without knowing of this project."""
    import torch
    from torch.utils.data import DataLoader

    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.sam import SamTower

    torch.set_grad_enabled(False)
    torch.set_num_threads(os.cpu_count() or 1)
    npy.mkdir()
    towers = {
        "clip": ClipTower.load(home.root / "towers" / "clip"),
        "sam": SamTower.load(home.root / "towers" / "sam"),
    }
    pictures = Pictures(png, {name: tower.image_size for name, tower in towers.items()})
    loader: DataLoader[Any] = DataLoader(
        pictures,  # type: ignore[arg-type]
        batch_size=road.embed.batch_size,
        num_workers=os.cpu_count() or 1,
    )
    seconds = {"waiting for decoded images": 0.0, "forward": 0.0, "write": 0.0}
    mark = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal mark
        now = time.perf_counter()
        seconds[step] += now - mark
        mark = now

    for names, pixels in loader:
        lap("waiting for decoded images")
        for tower, model in towers.items():
            features = model(pixels[tower]).half().numpy()
            lap("forward")
            for name, each in zip(names, features, strict=True):
                np.save(npy / f"{name}.{tower}.npy", each)
            lap("write")
    return {"num_images": len(pictures), "main_process_s": seconds}


if __name__ == "__main__":
    main()
