"""Make the SAM tower: train its encoder on lesion masks, or adopt published weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.images.decode import decode_stored
from sonoray.study.contract import Study
from sonoray.study.image_table import read_images
from sonoray_jobs.outputs.layers import save_adopted, save_trained, trained_part
from sonoray_jobs.towers.learning_texts import (
    captions_of,
    make_tokenizer,
    summary_of,
)

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


def make_sam(
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

    Raises:
        DataError: no training image has a mask.
    """
    from llava_ultra.config import ClipOnlyFusion
    from llava_ultra.pretrain.masks import pretrain_sam, thin_blanks
    from llava_ultra.pretrain.words import bag_of_words
    from llava_ultra.towers.adopt import adopt_sam

    config = road.model.sam
    wanted = [image.image_id for study in studies for image in study.images]
    if config.weights:
        tower = adopt_sam(config, target_grid=road.model.clip.grid)
        return save_adopted(folder, tower, config.weights, dataset, wanted)
    shows_lesion = _lesions(dataset, wanted)
    if not shows_lesion:
        unread = isinstance(road.model.fusion, ClipOnlyFusion)
        though = " (model.fusion.type=clip_only does not read SAM, but every model has it)"
        raise DataError(
            f"dataset {str(dataset)!r} has no lesion masks to train SAM on"
            f"{though if unread else ''}; learn it from one that "
            "has (sonoray ingest phantom, then --set bootstrap.dataset=phantom here and in what "
            "follows), or give published weights (model.sam.weights)"
        )
    settings = road.bootstrap.sam
    masked = list(shows_lesion)
    kept = thin_blanks(list(shows_lesion.values()), settings.blank_share)
    used = [masked[position] for position in kept[: settings.max_examples]]
    pairs = read_images(dataset, used).values()
    levels = [
        level
        for level in settings.mask_levels
        if any((mask == level).any() for _, mask in pairs if mask is not None)
    ]
    words = None
    if settings.word_weight:
        captions = captions_of(studies)
        tokenizer = make_tokenizer(road.model.language, studies)
        words = bag_of_words(tokenizer, [captions[image_id] for image_id in used])
    tower, losses = pretrain_sam(
        [image for image, _ in pairs],
        [mask for _, mask in pairs if mask is not None],
        trained_part("sam", config),
        settings.model_copy(update={"mask_levels": tuple(levels)}),
        target_grid=config.grid,
        words=words,
        on_step=post,
    )
    save_trained(folder, tower, used)
    missing = [level for level in settings.mask_levels if level not in levels]
    return {"missing_levels": missing, **summary_of(used, losses)}


def _lesions(dataset: Path, image_ids: Sequence[str]) -> dict[str, bool]:
    """Whether its mask shows a lesion, of each image that has a mask, in the same order."""
    import pyarrow.dataset as ds

    has_mask = ds.field("mask_png").is_valid()
    table = ds.dataset(dataset / "images").to_table(["image_id", "mask_png"], filter=has_mask)
    wanted = set(image_ids)
    shows = {
        row["image_id"]: bool(decode_stored(row["mask_png"]).any())
        for row in table.to_pylist()
        if row["image_id"] in wanted
    }
    return {image_id: shows[image_id] for image_id in dict.fromkeys(image_ids) if image_id in shows}
