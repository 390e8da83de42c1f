"""Embed: run the frozen towers over every unique image, once.

How is in `sonoray_jobs.towers.embedding`. The stores are keyed by image and tower fingerprint, so
an interrupted job goes on where its last committed batch ended, and a changed tower starts a store
of its own.
"""

from dataclasses import replace

from sonoray.study.study_index import index_studies
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import find_parts
from sonoray_jobs.outputs.stores import (
    features_root,
    stores_of,
    tower_fingerprints,
    tower_folders,
)
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.embedding import Embedded, embed_dataset
from sonoray_jobs.towers.feature_source import tower_stages
from sonoray_jobs.towers.views import views_of


def run(
    *, workspace: Workspace, road: RoadConfig, dataset: str, address: str | None = None
) -> Embedded:
    """Fill the feature stores for all images of the dataset.

    Raises:
        DataError: the dataset or the towers are missing, or the disk is too small.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    output = workspace.dataset(dataset)
    parts = find_parts(workspace, road, dataset)
    stores = stores_of(
        features_root(workspace, road), road.model, road.embed, tower_fingerprints(parts)
    )
    stages = tower_stages(road.embed, road.model, tower_folders(parts), stores)
    kept = [stage for stage in stages if road.embed.keeps(stage.name)]
    streamed = [stage.name for stage in stages if stage not in kept]
    embedded = embed_dataset(
        output, kept, road.embed, address, views=views_of(road.embed) if road.embed.views else None
    )
    if not streamed:
        return embedded
    index = index_studies(
        output.path, split="train", only=road.train.only, most=road.train.max_studies
    )
    epochs = sum(stage.epochs for stage in road.train.stages)
    count = round(epochs * len(index) * index.images_per_study)
    return replace(embedded, streamed=dict.fromkeys(streamed, count))
