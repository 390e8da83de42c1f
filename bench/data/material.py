"""What is embedded and with which towers: phantom studies or blank ones, random or null towers.

Random weights cost what trained ones do, so that no measurement waits for a bootstrap. A null tower
returns zeros at once: what is left is the pipeline itself. Both are ordinary `TowerStage`s, told
apart by what their `load` returns. torch is imported where towers are made and nowhere else: the
driver of an embed job does without it.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.features.store import FeatureStore
from sonoray.images.decode import encode_png, image_id
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.phantom import PhantomConfig
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.stores import TOWERS, stores_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.embed_pipeline import Encoder, Look, TowerStage
from sonoray_jobs.towers.feature_source import tower_stages

IMAGES_PER_STUDY = 5
NULL_SIDE = 16
"""Side of the blank studies' images, the least that a tower takes."""
NULL_SHAPE = (1, 8)
"""Tokens and channels of null features: 16 bytes an image, so that a million fit anywhere."""


def phantom_dataset(home: Workspace, num_images: int, seed: int) -> StageOutput:
    """Ingest `num_images` phantom images, rounded up to whole studies of 5; made once."""
    settings = PhantomConfig(
        seed=seed,
        num_patients=-(-num_images // IMAGES_PER_STUDY),
        images=(IMAGES_PER_STUDY, IMAGES_PER_STUDY),
    )
    return ingest(PhantomSource(settings), home, IngestConfig())


def random_towers(home: Workspace, road: RoadConfig) -> None:
    """Save towers of the road's shapes with random weights; the same ones every time."""
    import torch

    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.sam import SamTower

    torch.manual_seed(0)
    clip = ClipTower(road.model.clip, vocab_size=road.model.language.vocab_size, end_id=2, pad_id=0)
    sam = SamTower(road.model.sam, target_grid=road.model.clip.grid)
    for name, tower in (("clip", clip), ("sam", sam)):
        folder = home.root / "towers" / name
        folder.mkdir(parents=True, exist_ok=True)
        tower.eval().save(folder)
    fingerprints = {"clip": clip.fingerprint, "sam": sam.fingerprint}
    (home.root / "towers" / "fingerprints.json").write_text(json.dumps(fingerprints))


def open_towers(home: Workspace, features: Workspace, road: RoadConfig) -> list[TowerStage]:
    """The saved towers of `home`, with their stores in `features`."""
    folder = home.root / "towers"
    fingerprints = json.loads((folder / "fingerprints.json").read_text())
    stores = stores_of(features.features, road.model, road.embed, fingerprints)
    return tower_stages(road.embed, road.model, {tower: folder / tower for tower in TOWERS}, stores)


def null_towers(features: Workspace) -> list[TowerStage]:
    """Two towers that compute nothing."""
    return [
        TowerStage(
            name=name,
            look=Look(image_size=NULL_SIDE),
            store=FeatureStore(features.features, f"null-{name}", *NULL_SHAPE),
            load=partial(_load_null, NULL_SHAPE),
        )
        for name in TOWERS
    ]


def _load_null(shape: tuple[int, int]) -> Encoder:
    return lambda canvases: np.zeros((len(canvases), *shape), np.float16)


def null_dataset(home: Workspace, num_studies: int) -> StageOutput:
    """Write `num_studies` of one noise image and one question each, with ingest's own writers.

    Ingest itself would look for near-duplicates among them, which is not what is measured.
    """

    def make(folder: Path) -> dict[str, Any]:
        table = ImageTableWriter(folder)
        images = [table.add(item) for item in _noise_images(num_studies)]
        table.close()
        write_studies(folder, _null_studies(images))
        return {"unique_images": table.num_images}

    stage = Stage(name="ingest-null", config={"num_studies": num_studies}, code=[])
    output = run_stage(stage, home.stages, make)
    home.point_dataset(f"null-{num_studies}", output)
    return output


def _noise_images(count: int) -> Iterator[PreparedImage]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        pixels = generator.integers(0, 256, (NULL_SIDE, NULL_SIDE), dtype=np.uint8)
        yield PreparedImage(
            image=StudyImage(image_id=image_id(pixels), uri="", width=NULL_SIDE, height=NULL_SIDE),
            png=encode_png(pixels),
            mask_png=None,
            perceptual_hash=None,
        )


def _null_studies(images: Sequence[StudyImage]) -> Iterator[Study]:
    """One study for each image."""
    for place, image in enumerate(images):
        yield Study(
            study_id=f"study-{place}",
            patient_key=f"patient-{place}",
            split="train",
            dataset="null",
            images=(image,),
            turns=(Turn(question="?", answer="!", task=Task.OPEN),),
        )
