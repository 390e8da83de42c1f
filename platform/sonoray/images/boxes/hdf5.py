"""Pictures in HDF5 files, UFF among them: the one data set that holds them, through h5py.

HDF5 has no rule of where pictures lie. Read is the data set of 8-bit numbers that has at least two
axes of 16 or more, or the only one of other numbers; where there are several, the one that is
called `image`, `bmode` or another name of `NAMES`. Axes are `(H, W)`, `(N, H, W)`, `(H, W, 3)` or
`(N, H, W, 3)`; MATLAB, which says that it wrote the file, has them in the opposite order.

UFF (the Ultrasound File Format of USTB) names what each part is. Beamformed signals become
B-mode in `beamformed`; channel data are refused, in UFF and elsewhere: what is seen in them
depends on the beamformer.

A file may refer to others. Links to other files are not followed, and data sets that lie in other
files are refused. Run it in a process of `sonoray.images.sandbox`: the library is C.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonoray.images.boxes.grey_values import find_range, to_grey
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.images.frames import Loop, take_frames
from sonoray.images.video import VideoConfig

if TYPE_CHECKING:
    from h5py import Dataset, File, Group

NAMES = ("image", "images", "bmode", "b_mode", "frames", "us_image", "us_images", "video", "cine")
"""What a data set of pictures is called, in small letters, where others lie beside it."""
_CHANNEL_DATA = "uff.channel_data"
BEAMFORMED = "uff.beamformed_data"
_MIN_SIDE = 16
_MAX_OBJECTS = 100_000


def read_hdf5(path: Path, config: VideoConfig) -> Loop:
    """Read the chosen frames of the pictures in an HDF5 file.

    Returns:
        Frames of uint8 `(H, W)` or `(H, W, 3)`.

    Raises:
        RejectedImageError: it is damaged, too large, or holds no pictures, or several.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _read(file, config)
    except OSError as error:  # its text quotes the path
        detail = error.strerror or "h5py cannot read it"
        raise RejectedImageError(
            f"unreadable: {detail}; the file is damaged, incomplete or no HDF5"
        ) from None


def _read(file: "File", config: VideoConfig) -> Loop:
    datasets, groups = _survey(file)
    by_class = {class_of(group): group for group in groups}
    by_change = config.sampling == "change"
    if BEAMFORMED in by_class:
        from sonoray.images.boxes.beamformed import read_beamformed

        bmode = read_beamformed(by_class[BEAMFORMED], config)
        frames = take_frames(
            bmode.pictures.__getitem__,
            [None] * len(bmode.pictures),
            config.max_frames,
            by_change=by_change,
        )
        return Loop(frames=frames, labels=bmode.labels, notes=bmode.notes)
    if _CHANNEL_DATA in by_class:
        raise RejectedImageError(
            "raw_channel_data: UFF channel data, no pictures; beamform them (in USTB with a "
            "pipeline) and write the beamformed_data"
        )
    dataset = _find_pictures(datasets)
    check_data(dataset, config)
    values = _with_frames_first(dataset)
    height, width = values.shape[1:3]
    if width * height > config.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {width} x {height}, at most {config.max_pixels:,}; scale it down or "
            "raise video.max_pixels"
        )
    if len(values) > config.max_length:
        raise RejectedImageError(
            f"too_many_frames: {len(values):,}, at most {config.max_length:,}; cut it or raise "
            "video.max_length"
        )
    shown = find_range(values)

    def read(index: int) -> Pixels:
        return to_grey(values[index], shown)

    starts = [None] * len(values)
    return Loop(frames=take_frames(read, starts, config.max_frames, by_change=by_change))


def _survey(file: "File") -> tuple[list["Dataset"], list["Group"]]:
    """Data sets and groups of the file itself; links to other files are not followed."""
    import h5py

    datasets: list[Dataset] = []
    groups: list[Group] = []

    def note(_name: str, found: "Dataset | Group") -> bool | None:
        if isinstance(found, h5py.Dataset):
            datasets.append(found)
        else:
            groups.append(found)
        return True if len(datasets) + len(groups) > _MAX_OBJECTS else None

    if file.visititems(note):
        raise RejectedImageError(
            f"unreadable: more than {_MAX_OBJECTS:,} objects in the file; export the pictures alone"
        )
    return datasets, groups


def class_of(group: "Group") -> str:
    """What UFF says that a group is; empty where it says nothing."""
    said: Any = group.attrs.get("class", "")
    said = said.ravel()[0] if isinstance(said, np.ndarray) and said.size else said
    return said.decode("utf-8", errors="replace") if isinstance(said, bytes) else str(said)


def check_data(dataset: "Dataset", config: VideoConfig) -> None:
    """Refuse a data set that is too large or lies in another file; nothing of it is read yet.

    Raises:
        RejectedImageError: `outside_folder` or `too_many_bytes`.
    """
    if dataset.external or dataset.is_virtual:
        raise RejectedImageError(
            "outside_folder: the data lie in another file; save them into the file itself"
        )
    chunk = int(np.prod(dataset.chunks, dtype=np.int64)) if dataset.chunks else 0
    size_bytes = max(dataset.size, chunk) * dataset.dtype.itemsize
    if size_bytes > config.max_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {size_bytes:,} bytes unpacked, at most {config.max_bytes:,}; cut it "
            "or raise video.max_bytes"
        )


def _find_pictures(datasets: list["Dataset"]) -> "Dataset":
    def may_be(dataset: "Dataset") -> bool:
        large = sum(side >= _MIN_SIDE for side in dataset.shape or ())
        return large >= 2 and len(dataset.shape) <= 4 and dataset.dtype.kind in "uif"

    found = [dataset for dataset in datasets if may_be(dataset)]
    candidates = [dataset for dataset in found if dataset.dtype == np.uint8] or found
    if len(candidates) > 1:
        named = [each for each in candidates if each.name.rpartition("/")[2].lower() in NAMES]
        candidates = named or candidates
    if not candidates:
        raise RejectedImageError(
            "unreadable: no data set of pictures in the file; expected are 8-bit numbers of at "
            "least two axes"
        )
    if len(candidates) > 1:
        raise RejectedImageError(
            f"ambiguous: {len(candidates)} data sets may be the pictures; call one of them "
            f"{', '.join(NAMES[:3])}, or export it alone"
        )
    return candidates[0]


def _with_frames_first(dataset: "Dataset") -> NDArray[Any]:
    """Values as `(N, H, W)` or `(N, H, W, 3)`.

    Raises:
        RejectedImageError: the axes are none of these.
    """
    values: NDArray[Any] = dataset[()]
    if "MATLAB_class" in dataset.attrs:  # the first axis is the fastest there: H, W, colours, N
        colours = 3 if values.ndim >= 3 and values.shape[values.ndim - 3] == 3 else 1
        if colours == 3:
            values = np.moveaxis(values.swapaxes(-1, -2), -3, -1)
        else:
            values = values.swapaxes(-1, -2)
    else:
        colours = 3 if values.ndim >= 3 and values.shape[-1] == 3 else 1
    if values.ndim == (2 if colours == 1 else 3):
        values = values[None]
    if values.ndim != (3 if colours == 1 else 4):
        raise RejectedImageError(
            f"unsupported_mode: {values.ndim} axes of {values.dtype}; expected are (N, H, W) or "
            "(N, H, W, 3)"
        )
    return values
