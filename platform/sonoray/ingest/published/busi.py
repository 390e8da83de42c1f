"""BUSI: 780 breast ultrasound images, normal, benign or malignant, with lesion outlines.

Al-Dhabyani, Gomaa, Khaled, Fahmy: "Dataset of breast ultrasound images", Data in Brief 28 (2020),
of 600 women. Expected: the folders `benign`, `malignant` and `normal` with `benign (1).png`, its
mask `benign (1)_mask.png` and further masks `benign (1)_mask_1.png`, which are merged: an image may
show several lesions.

The set does not say which images are of one woman. Each is a study and a patient of its own, and
only what ingest knows of equal and nearly equal images keeps copies out of two splits. There are
many: a letter on the set (Pawlowska, Karwat, Zolek, Data in Brief 48, 2023) found duplicates, some
of them under two classes, images of the armpit, and marks drawn into the picture. Scores on it
are better than they should be.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.errors import DataError
from sonoray.images.decode import (
    DEFAULT_LIMITS,
    ImageLimits,
    Pixels,
    RejectedImageError,
    decode_file,
)
from sonoray.ingest.sources.inputs import digest_files, load_image, unusable
from sonoray.study.contract import Task, Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawImage, RawStudy

CLASSES = {"normal": "正常", "benign": "良性", "malignant": "恶性"}

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_MASK = re.compile(r"(?P<image>.+)_mask(?:_\d+)?")


class BusiSource:
    """Reads a BUSI folder."""

    set_name = "busi"
    public = True

    def __init__(
        self, folder: Path, *, name: str = set_name, limits: ImageLimits = DEFAULT_LIMITS
    ) -> None:
        """Read the file names; no image is opened.

        Args:
            folder: that of the three classes.
            name: the dataset's name.
            limits: what is accepted as an image or a mask.

        Raises:
            DataError: a folder is missing, or none of them holds an image.
        """
        self.name = name
        missing = [each for each in CLASSES if not (folder / each).is_dir()]
        if missing:
            raise DataError(
                f"folder {str(folder)!r} lacks {', '.join(missing)}; give the one that holds "
                f"{', '.join(CLASSES)}"
            )
        self._folder = folder
        self._limits = limits
        self._files = sorted(
            path for kind in CLASSES for path in (folder / kind).iterdir() if path.is_file()
        )
        self._images: list[Path] = []
        self._others: list[Path] = []
        self._masks: dict[Path, list[Path]] = {}
        for path in self._files:
            mask = _MASK.fullmatch(path.stem)
            if path.suffix.lower() not in _SUFFIXES:
                self._others.append(path)
            elif mask:
                self._masks.setdefault(path.with_name(mask["image"] + path.suffix), []).append(path)
            else:
                self._images.append(path)
        if not self._images:
            raise DataError(f"folder {str(folder)!r} holds no image; give the complete data set")
        self._orphans = [image for image in self._masks if image not in set(self._images)]

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._images) + len(self._orphans) + len(self._others)

    def config(self) -> dict[str, Any]:
        """Nothing shapes the output but the files."""
        return {}

    def input_digest(self) -> str:
        """Sha256 (hex) over the names and contents of images and masks."""
        images = {self._ref(path): path for path in self._files}
        return digest_files({}, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per image in file order, then masks without one and other files."""
        for path in self._images:
            yield self._study(path)
        for path in self._orphans:
            ref = self._ref(self._masks[path][0])
            yield unusable(ref, f"missing_file: the mask {ref!r} has no image; copy it there")
        for path in self._others:
            ref = self._ref(path)
            yield unusable(ref, f"unknown_file: {ref!r} is no image; remove it")

    def _study(self, path: Path) -> RawStudy:
        ref, kind = self._ref(path), path.parent.name
        return RawStudy(
            ref=ref,
            patient_ref=ref,
            images=(self._image(path, kind),),
            turns=(
                Turn(
                    question="这张乳腺超声图像是正常、良性还是恶性？",
                    answer=CLASSES[kind],
                    task=Task.CLOSED,
                    options=tuple(CLASSES.values()),
                    topic="pathology",
                ),
            ),
            labels={"pathology": kind, SITE_LABEL: "乳腺"},
            provenance=f"BUSI {ref}",
        )

    def _image(self, path: Path, kind: str) -> RawImage:
        finding = "未见病灶" if kind == "normal" else f"{CLASSES[kind]}病灶"
        image = load_image(
            self._folder, self._ref(path), labels={"caption": f"乳腺超声：{finding}。"}
        )
        masks = self._masks.get(path, [])
        if image.problem or not masks:
            return image
        try:
            mask = _merge(masks, self._limits)
        except RejectedImageError as error:
            return replace(image, data=b"", problem=f"bad_mask: {error}; export it again")
        return replace(image, mask=mask)

    def _ref(self, path: Path) -> str:
        return str(path.relative_to(self._folder))


def _merge(files: Sequence[Path], limits: ImageLimits) -> Path | Pixels:
    """Return the union of masks; a single one stays as it is.

    Raises:
        RejectedImageError: one cannot be decoded, or they differ in size.
    """
    if len(files) == 1:
        return files[0]
    masks = [_to_plane(decode_file(file, limits)) for file in files]
    if len({mask.shape for mask in masks}) > 1:
        sizes = ", ".join(f"{mask.shape[1]} x {mask.shape[0]}" for mask in masks)
        raise RejectedImageError(f"masks of one image have {sizes} pixels")
    union: Pixels = np.maximum.reduce(masks)
    return union


def _to_plane(mask: Pixels) -> Pixels:
    """Bring a mask to 0 and 255 (H, W), as ingest does with a single one."""
    plane = mask.max(axis=2) if mask.ndim == 3 else mask
    return np.where(plane > plane.max() // 2, 255, 0).astype(np.uint8)
