"""Make the CLIP tower: train it on images and captions, or adopt published weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.study.contract import Study
from sonoray.study.image_table import read_images
from sonoray_jobs.outputs.layers import save_adopted, save_trained, trained_part
from sonoray_jobs.towers.clip_knowledge import knowledge_of
from sonoray_jobs.towers.learning_texts import (
    captions_of,
    make_tokenizer,
    summary_of,
)

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


def make_clip(
    folder: Path,
    road: "RoadConfig",
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Write the part into `folder` and return its summary.

    Args:
        folder: empty.
        road: the configuration.
        dataset: folder of the dataset.
        studies: its training studies.
        post: progress callback.
    """
    from llava_ultra.pretrain.contrastive import pretrain_clip
    from llava_ultra.towers.adopt import adopt_clip

    config = road.model.clip
    if config.weights:
        wanted = [image.image_id for study in studies for image in study.images]
        source = f"{config.source} {config.weights}"
        return save_adopted(folder, adopt_clip(config), source, dataset, wanted)
    tokenizer = make_tokenizer(road.model.language, studies)
    captions = captions_of(studies)
    table = read_images(dataset, list(captions)[: road.bootstrap.clip.max_examples])
    told: dict[str, list[float]] = {}
    tower, losses = pretrain_clip(
        [image for image, _ in table.values()],
        [captions[image_id] for image_id in table],
        tokenizer,
        trained_part("clip", config),
        road.bootstrap.clip,
        post,
        knowledge=knowledge_of(road, studies, list(table), captions, tokenizer),
        told=told,
    )
    save_trained(folder, tower, list(table))
    own = {name: summary_of((), each)["last_loss"] for name, each in told.items()}
    return {**summary_of(list(table), losses), "losses": own}
