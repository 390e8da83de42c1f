"""Attributes that enhanced objects give frame by frame: window, rescale, spacing, kind of data.

An enhanced multi-frame object keeps them in functional groups: an item for each frame, and one
that all frames share. Read as a plain object it would be shown over the range of its stored bits,
without the size of a pixel, and the velocities of an Enhanced US Volume would pass for echoes.

Source: DICOM PS3.3 sections C.7.6.16 (Multi-frame Functional Groups), C.8.24.5.1 (US frames).
"""

from collections.abc import Sequence
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from sonoray.images.decode import RejectedImageError

_SHARED, _OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_SHOWN = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
"""By functional group: which of its attributes say how a frame is shown."""
_ECHOES = "TISSUE_INTENSITY"


def find_group(data: Dataset, index: int, keyword: str) -> Dataset | None:
    """The item of a functional group for the frame at `index`: its own, else the shared one."""
    own = _items(data, _OWN)
    for groups in (*own[index : index + 1], *_items(data, _SHARED)[:1]):
        if found := _items(groups, keyword):
            item: Dataset = found[0]
            return item
    return None


def attributes_of_frame(data: Dataset, index: int) -> Dataset:
    """The attributes that say how the frame at `index` is shown: its own before the object's."""
    if _SHARED not in data and _OWN not in data:
        return data
    shown = copy_attributes(data)
    for group, keywords in _SHOWN.items():
        item = find_group(data, index, group)
        for keyword in keywords if item is not None else ():
            if item is not None and keyword in item:
                shown[keyword] = item[keyword]
    return shown


def copy_attributes(data: Dataset, *, without: str = "") -> Dataset:
    """A dataset of the same attributes, as they were read, but one."""
    copied = Dataset()
    left_out = tag_for_keyword(without)
    copied.update({tag: element for tag, element in data.items() if tag != left_out})
    return copied


def find_pictures(data: Dataset, count: int) -> tuple[int, ...]:
    """Indices of the frames that show echoes; all of them where none says what it holds.

    Raises:
        RejectedImageError: the frames hold other values alone, as flow velocities.
    """
    if _SHARED not in data and _OWN not in data:
        return tuple(range(count))
    types = [_data_type(data, index) for index in range(count)]
    shown = tuple(index for index, kind in enumerate(types) if kind in ("", _ECHOES))
    if not shown:
        raise RejectedImageError(
            f"unsupported_pixels: the frames are {', '.join(sorted(set(types)))}, which are values "
            f"and no picture; read are frames of {_ECHOES}"
        )
    return shown


def _data_type(data: Dataset, index: int) -> str:
    item = find_group(data, index, "ImageDataTypeSequence")
    kind = "" if item is None else str(item.get("DataType", ""))
    return kind if kind.replace("_", "").isalnum() else ""


def _items(data: Dataset, keyword: str) -> Sequence[Any]:
    return data.get(keyword) or ()
