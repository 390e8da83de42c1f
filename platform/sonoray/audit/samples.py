"""A draw of images for a contact sheet: a row for each value of a label, and for none, and split.

A row takes one image of each study, then the second ones, and so on until it is full: it shows as
many studies as it can, and of few studies all that it has room for. Images that show the finding
come first where that is known. What is drawn follows from the images' hashes alone: it is random,
and the same whatever the order of the studies.
"""

import hashlib
from collections.abc import Iterable, Iterator

from sonoray.study.contract import Study


class Samples:
    """Draws images while studies stream by: `watch` them all, then ask for `rows`."""

    def __init__(self, label: str | None, *, num_images: int, of_images: bool = False) -> None:
        """Start with no study.

        Args:
            label: by which images are grouped; None groups them by split alone.
            num_images: most images of a row.
            of_images: whether it is a label of images, and not of studies.
        """
        self._label = label
        self._of_images = of_images
        self._num_images = num_images
        self._rows: dict[tuple[str, str], dict[str, tuple[int, bytes]]] = {}

    def watch(self, studies: Iterable[Study]) -> Iterator[Study]:
        """Yield the studies as they are, and draw from them."""
        for study in studies:
            self._add(study)
            yield study

    def rows(self) -> dict[tuple[str, str], list[str]]:
        """Return image ids by value of the label, empty for studies without it, and split."""
        return {group: sorted(row, key=row.__getitem__) for group, row in self._rows.items()}

    def _add(self, study: Study) -> None:
        groups: dict[str, list[tuple[bool, bytes, str]]] = {}
        for image in study.images:
            labels = image.labels if self._of_images else study.labels
            value = labels.get(self._label, "") if self._label else ""
            hides = image.labels.get("shows_finding") == "0"
            groups.setdefault(value, []).append((hides, _draw(image.image_id), image.image_id))
        for value, images in groups.items():
            self._fill(self._rows.setdefault((value, study.split), {}), sorted(images))

    def _fill(
        self, row: dict[str, tuple[int, bytes]], images: list[tuple[bool, bytes, str]]
    ) -> None:
        """Offer a study's images to a row, in their order."""
        for turn, (_, number, image_id) in enumerate(images):
            row[image_id] = min((turn, number), row.get(image_id, (turn, number)))
            if len(row) > self._num_images:
                last = max(row, key=row.__getitem__)
                del row[last]
                if last == image_id:  # so would be those of later turns
                    break


def _draw(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()
