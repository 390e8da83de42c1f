"""Which files show a loop or a picture in a box, and what reads each kind.

The ending of the name decides, as it does for whoever named the file; each reader then takes the
formats of its ending and no others. Every reader is C or C++ that reads what strangers wrote: run
`read_loop` in a process of `sonoray.images.sandbox`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sonoray.images.decode import RejectedImageError
from sonoray.images.frames import Loop
from sonoray.images.video import VideoConfig, check_bytes

VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""Read by FFmpeg."""
VOLUMES = (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")
"""Read by SimpleITK."""
HDF5 = (".h5", ".hdf5", ".uff")
WEBP = (".webp",)
SERIES = (".pgm", ".pnm", ".ppm")
"""Pictures that are the frames of one loop where they lie in one folder."""
SUFFIXES = (*VIDEOS, *VOLUMES, *HDF5, *WEBP, *SERIES)
DECODERS = ("av", "h5py", "pillow", "simpleitk")
"""Packages that decode; another version may give other pixels."""


def suffix_of(name: str) -> str:
    """The ending of a file's name, in small letters, if it is one of `SUFFIXES`; else empty."""
    last = PurePosixPath(name).name.lower()
    found = (suffix for suffix in SUFFIXES if last.endswith(suffix) and last != suffix)
    return max(found, key=len, default="")


def list_parts(path: Path) -> tuple[Path, ...]:
    """The file and what it needs beside it: the data of a `.mhd`, where they can be found."""
    if suffix_of(path.name) != ".mhd":
        return (path,)
    from sonoray.images.boxes.volumes import find_data_file

    try:
        return path, find_data_file(path)
    except RejectedImageError:  # reading it says so
        return (path,)


def read_loop(paths: Sequence[Path], config: VideoConfig) -> Loop:
    """Decode the chosen frames of a loop.

    Args:
        paths: its file and what `list_parts` adds, or the files of a series in their order.
        config: which frames are taken, and what is accepted.

    Raises:
        RejectedImageError: it cannot be read, or is not accepted.
    """
    first = paths[0]
    suffix = suffix_of(first.name)
    if suffix in VIDEOS:
        from sonoray.images.video import read_video

        return read_video(first, config)
    check_bytes(*paths, max_bytes=config.max_bytes)
    if suffix in VOLUMES:
        from sonoray.images.boxes.volumes import read_volume

        return read_volume(first, suffix, config)
    if suffix in HDF5:
        from sonoray.images.boxes.hdf5 import read_hdf5

        return read_hdf5(first, config)
    from sonoray.images.boxes.animations import read_series, read_webp

    return read_webp(first, config) if suffix in WEBP else read_series(paths, config)
