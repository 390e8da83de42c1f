"""The segmentations of a study become the masks of its images, or are quarantined with a reason.

A segmentation that outlines at least one image of its study is used up: it is no image of its own.
Where several outline one image their masks are joined. Frames of a loop that were not taken have no
image, so their outlines are left out, and counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sonoray.images.decode import ImageLimits, Pixels, RejectedImageError
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import DecodedObject, Entry
from sonoray.ingest.outlines.segmentation import Outlines, Place, read_outlines
from sonoray.study.raw import RawImage

_USED = "segmentations: segmentations became masks"
_OUTLINED = "masks: images have a mask from a segmentation"
_NO_IMAGE = "outlines_left_out: outlined frames are no images of their study"
_UNCLEAR = "outlines_unclear: frames of segmentations name no picture"


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """The images of a study after its segmentations were read."""

    images: list[RawImage]
    """The images, with masks where there are some, then the segmentations that were not used."""
    remarks: Mapping[str, int]
    """`reason: detail` of what was used and left out, and how often."""


def with_masks(
    pool: GuardedPool,
    images: Sequence[RawImage],
    decoded: Mapping[Place, Sequence[tuple[int, DecodedObject]]],
    segmentations: Sequence[Entry],
    config: DicomConfig,
    limits: ImageLimits,
) -> Masked:
    """Give the images of a study the masks that its segmentations hold.

    Args:
        pool: where the segmentations are read.
        images: of the study, in order.
        decoded: by frame of an object: the position in `images` and the object, of each copy.
        segmentations: of the study, in order.
        config: how objects become images.
        limits: what is accepted as an image.
    """
    masks: dict[int, Pixels] = {}
    unused: list[RawImage] = []
    num_used = num_without = num_unclear = 0
    for entry in segmentations:
        try:
            read = pool.submit(read_outlines, entry, frozenset(decoded), config, limits).result()
            found = _fit(read, decoded)
        except RejectedImageError as error:
            unused.append(RawImage(ref=entry.ref, data=b"", problem=str(error)))
            continue
        num_used += 1
        num_without += read.num_outlined - len(read.masks)
        num_unclear += read.num_unclear
        for position, mask in found.items():
            masks[position] = np.maximum(masks[position], mask) if position in masks else mask
    shown = [
        replace(image, mask=masks[position]) if position in masks else image
        for position, image in enumerate(images)
    ]
    remarks = Counter({_USED: num_used, _OUTLINED: len(masks)})
    remarks += Counter({_NO_IMAGE: num_without, _UNCLEAR: num_unclear})
    return Masked(images=[*shown, *unused], remarks=remarks)


def _fit(
    outlines: Outlines, decoded: Mapping[Place, Sequence[tuple[int, DecodedObject]]]
) -> dict[int, Pixels]:
    """By position of the image: the mask, cut as the image was.

    Raises:
        RejectedImageError: there is none, or one of another geometry.
    """
    if not outlines.masks:
        raise RejectedImageError(
            f"mask_without_image: of the {outlines.num_outlined} frames that the segmentation "
            f"outlines none is an image of the study ({outlines.num_unclear} outlines name no "
            "picture)"
        )
    found = {}
    for place, mask in outlines.masks.items():
        for position, picture in decoded[place]:
            found[position] = _cut(mask, picture)
    return found


def _cut(mask: Pixels, picture: DecodedObject) -> Pixels:
    if mask.shape != picture.shape:
        raise RejectedImageError(
            f"bad_mask: the segmentation has {mask.shape} rows and columns, its picture "
            f"{picture.shape}"
        )
    return mask if picture.area is None else picture.area.cut(mask)
