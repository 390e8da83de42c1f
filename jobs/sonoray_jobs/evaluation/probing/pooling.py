"""Pooled features of a study's images: what a linear probe sees.

An image is the mean and the maximum of its tokens, each tower's behind the other's. Where the
dataset says which images of a study show the finding, the others are left out: the probe is asked
what the towers know, and not which image to look at.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray.stages import StageOutput
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import EvaluateConfig, RoadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledStudy:
    """A study as the probe sees it."""

    study: Study
    towers: Mapping[str, npt.NDArray[np.float32]]
    """By tower, (K, 2 C) for its K images that count."""


class PoolActor:
    """Reads or computes features in one process: studies in, pooled images out."""

    def __init__(self, settings: "EvaluateConfig", features: FeatureSource, device: str) -> None:
        """Open the stores, load the towers whose features are not stored."""
        del settings, device  # the source says where its towers run
        self._features = FeatureReader(features)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return one row per image: `place` of its study, and by tower its pooled features."""
        from llava_ultra.student.network import pool_tokens

        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        images = [images_that_count(study) for study in studies]
        features = self._features.read([image for each in images for image in each])
        places = [
            int(place) for place, each in zip(batch["place"], images, strict=True) for _ in each
        ]
        return {"place": places} | {tower: list(pool_tokens(features[tower])) for tower in TOWERS}


def images_that_count(study: Study) -> Sequence[StudyImage]:
    """Those that show the finding; all where nobody knows, or none does."""
    shown = [image for image in study.images if image.labels.get("shows_finding") == "1"]
    return shown or study.images


def gather(studies: Sequence[Study], rows: Sequence[Mapping[str, Any]]) -> list[PooledStudy]:
    """Put what the actors returned, in any order, beside its studies."""
    found: list[dict[str, list[npt.NDArray[np.float32]]]]
    found = [{tower: [] for tower in TOWERS} for _ in studies]
    for row in rows:
        for tower in TOWERS:
            found[row["place"]][tower].append(np.asarray(row[tower], np.float32))
    return [
        PooledStudy(
            study=study, towers={tower: np.stack(values) for tower, values in pooled.items()}
        )
        for study, pooled in zip(studies, found, strict=True)
    ]


def pool_studies(
    workspace: "Workspace",
    road: "RoadConfig",
    output: "StageOutput",
    parts: Mapping[str, "StageOutput"],
    studies: Sequence[Study],
    address: str | None,
) -> list[PooledStudy]:
    """Pool the features of all images that count, on Ray.

    Args:
        workspace: where features are stored.
        road: how they are made.
        output: the dataset.
        parts: the towers.
        studies: of the dataset.
        address: Ray cluster.
    """
    from sonoray_jobs.evaluation.answer import pack_studies
    from sonoray_jobs.evaluation.answer_pool import answer_rows
    from sonoray_jobs.outputs.stores import (
        features_root,
        stores_of,
        tower_fingerprints,
        tower_folders,
    )
    from sonoray_jobs.towers.feature_source import feature_source

    features = feature_source(
        road.embed,
        model=road.model,
        dataset=output.path,
        folders=tower_folders(parts),
        stores=stores_of(
            features_root(workspace, road), road.model, road.embed, tower_fingerprints(parts)
        ),
        device="cuda" if road.evaluate.actor_gpus else "cpu",
    )
    rows = [{**row, "place": place} for place, row in enumerate(pack_studies(list(studies)))]
    found = answer_rows(
        rows,
        num_answers=sum(len(images_that_count(study)) for study in studies),
        actor=PoolActor,
        given={},
        trained_in="float32",
        settings=road.evaluate,
        features=features,
        address=address,
        what="pool features",
    )
    return gather(studies, found)
