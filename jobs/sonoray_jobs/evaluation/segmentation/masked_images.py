"""The images of a dataset that have masks, and what each instruction means in them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llava_ultra.segmentation.segmentation_config import Instruction, SegmentationConfig
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage
from sonoray.study.image_table import iter_masks
from sonoray.study.spacing import spacing_of

NOTHING = -1
"""An instruction that means nothing in an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedImage:
    """An image with a mask."""

    image: StudyImage
    study_id: str
    patient_key: str
    labels: Mapping[str, str]
    """Of its study and its own."""

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Between pixels across and down, where it is known."""
        return spacing_of(self.labels)

    def target_of(self, instruction: Instruction, levels: Sequence[int]) -> int:
        """Which of the masks of `mask_planes` an instruction means here; `NOTHING` where none."""
        if any(self.labels.get(name) != value for name, value in instruction.where.items()):
            return NOTHING
        return 1 + levels.index(instruction.level) if instruction.level else 0


def masked_images(dataset: Path, studies: Sequence[Study], most: int = 0) -> list[MaskedImage]:
    """Images of studies that have a mask, in the studies' order, each once.

    Args:
        dataset: folder of the dataset.
        studies: whose images.
        most: how many at most; 0 takes all.

    Raises:
        DataError: none has a mask.
    """
    known = _ids_with_masks(dataset)
    found: dict[str, MaskedImage] = {}
    for study in studies:
        for image in study.images:
            if image.image_id in known and image.image_id not in found:
                found[image.image_id] = MaskedImage(
                    image=image,
                    study_id=study.study_id,
                    patient_key=study.patient_key,
                    labels={**study.labels, **image.labels},
                )
    if not found:
        num_images = sum(len(study.images) for study in studies)
        raise DataError(
            f"none of the {num_images} {studies[0].split if studies else ''} images of dataset "
            f"{str(dataset)!r} has a mask; ingest it with masks (DICOM segmentations, busbra, "
            "busi), or take a dataset that has: phantom"
        )
    return list(found.values())[: most or None]


def check_instructions(settings: SegmentationConfig, images: Sequence[MaskedImage]) -> None:
    """Refuse labels that no image has, and a unit that cannot be had.

    Raises:
        DataError: a label of `where` is unknown or never has the value, or millimetres are asked
            for where an image has no spacing.
    """
    for each in settings.instructions:
        for name, value in each.where.items():
            values = {image.labels[name] for image in images if name in image.labels}
            if value not in values:
                known = ", ".join(sorted(values)[:8]) or "nothing: no image has this label"
                raise DataError(
                    f"segment.instructions: {each.text!r} is true where {name} is {value!r}, but "
                    f"{name} is {known}; correct where"
                )
    without = [image for image in images if image.spacing_mm is None]
    if settings.unit == "mm" and without:
        raise DataError(
            f"segment.unit is mm, but {len(without)} of {len(images)} images have no spacing "
            "(labels spacing_mm_x and spacing_mm_y); take segment.unit=known or pixels, or ingest "
            "them from DICOM"
        )


def check_levels(
    dataset: Path, images: Sequence[MaskedImage], settings: SegmentationConfig
) -> None:
    """Refuse mask values that no mask holds; decodes masks until each was seen.

    Raises:
        DataError: there is one.
    """
    wanted = set(settings.levels)
    seen: set[int] = set()
    masks = iter_masks(dataset, {each.image.image_id for each in images}) if wanted else iter(())
    while wanted and (found := next(masks, None)) is not None:
        values = set(np.unique(found[1]).tolist())
        seen |= values
        wanted -= values
    if wanted:
        raise DataError(
            f"segment.instructions: no training mask holds the value {min(wanted)} that is a level "
            f"there; masks hold {', '.join(map(str, sorted(seen)))}"
        )


def targets_of(
    images: Sequence[MaskedImage], settings: SegmentationConfig
) -> npt.NDArray[np.int64]:
    """What instructions mean in images, (N, I), as `MaskedImage.target_of`."""
    return np.array(
        [
            [image.target_of(each, settings.levels) for each in settings.instructions]
            for image in images
        ]
    )


def mask_planes(mask: npt.NDArray[np.uint8], levels: Sequence[int]) -> npt.NDArray[np.bool_]:
    """A stored mask (H, W) as all of it and each level of it, (1 + L, H, W)."""
    return np.stack([mask > 0, *(mask == level for level in levels)])


def read_grids(
    dataset: Path, images: Sequence[MaskedImage], size: int, levels: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """The masks of images on SAM's padded square, (N, 1 + L, size, size), shares of 255."""
    from llava_ultra.towers.pixels import to_masks

    places = {image.image.image_id: place for place, image in enumerate(images)}
    grids = np.zeros((len(images), 1 + len(levels), size, size), np.uint8)
    for image_id, mask in iter_masks(dataset, places):
        shares = to_masks([mask], size, levels)[0].numpy()
        grids[places[image_id]] = np.rint(255 * shares).astype(np.uint8)
    return grids


def _ids_with_masks(dataset: Path) -> Collection[str]:
    import pyarrow.dataset as ds

    table = ds.dataset(dataset / "images").to_table(
        columns=["image_id"], filter=ds.field("mask_png").is_valid()
    )
    return set(table[0].to_pylist())
