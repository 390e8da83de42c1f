"""Sequences and volumes of medical image files, through SimpleITK: MetaImage, NRRD, NIfTI.

PLUS and 3D Slicer record tracked ultrasound as `.mha`, `.mhd` or `.nrrd`, research sets publish
NIfTI. Frames are what lies along the third axis. PLUS says of each frame when it was taken and
whether the picture is valid, and of all which way the beam runs: frames that it calls invalid are
left out, and pictures whose probe is below are turned upside down. Radio-frequency lines are no
pictures and are refused.

A header may name another file as its data. MetaImage (`.mhd`) may name one in its own folder; any
other place, a pattern, a list, and NRRD with a file apart are refused before SimpleITK sees them.

Run it in a process of `sonoray.images.sandbox`: the readers are C++.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonoray.images.boxes.grey_values import find_range, to_grey
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.images.frames import Loop, take_frames
from sonoray.images.video import VideoConfig

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

READERS = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
}
"""ITK's reader by the ending of the name; no other is tried."""
_RAW_TYPES = ("RF_REAL", "RF_IQ_LINE", "RF_I_LINE_Q_LINE")
"""PLUS's names of what is not yet a picture."""
_FRAME_FIELD = re.compile(r"Seq_Frame(\d{1,9})_(Timestamp|ImageStatus)")
_MAX_HEADER_BYTES = 64_000_000
"""PLUS writes some 500 bytes a frame into the header."""


def find_data_file(header: Path) -> Path:
    """Return the file in which the data of a `.mhd` lie.

    Raises:
        RejectedImageError: `unreadable_file`, `unreadable`, `outside_folder` or `missing_file`.
    """
    name = _read_field(header, "elementdatafile", separator="=")
    if not name:
        raise RejectedImageError("unreadable: the header names no ElementDataFile; export it again")
    is_bare = len(PurePosixPath(name.replace("\\", "/")).parts) == 1 and name not in (".", "..")
    if not is_bare or PureWindowsPath(name).drive or "%" in name or name.split()[0] == "LIST":
        raise RejectedImageError(
            "outside_folder: the data of the header lie elsewhere or in several files; save it as "
            "one .mha"
        )
    found = header.parent / name
    if not found.is_file():
        raise RejectedImageError(
            "missing_file: the file that the header names as its data is not beside it; copy it "
            "there"
        )
    return found


def read_volume(path: Path, suffix: str, config: VideoConfig) -> Loop:
    """Read the chosen frames of a sequence or volume.

    Args:
        path: the file.
        suffix: one of `READERS`.
        config: which frames are taken, and what is accepted.

    Returns:
        Frames of uint8 `(H, W)` or `(H, W, 3)`, with the size of a pixel as labels.

    Raises:
        RejectedImageError: it is damaged, too large, or holds no pictures.
    """
    _check_data_place(path, suffix)
    import SimpleITK as sitk  # noqa: N813 - as its own pages write it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[suffix])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        fields = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
        _check(reader, fields, config)
        image = reader.Execute()
    except RuntimeError:  # its text quotes the path
        raise RejectedImageError(
            f"unreadable: SimpleITK's {READERS[suffix]} cannot read it; the file is damaged, "
            "incomplete or of another format"
        ) from None
    values = sitk.GetArrayViewFromImage(image)
    has_colours = reader.GetNumberOfComponents() > 1
    values = values.reshape(-1, *values.shape[-3 if has_colours else -2 :])
    shown = find_range(values, _window(fields))
    valid, starts = _list_frames(fields, len(values), config)
    is_upside_down = fields.get("UltrasoundImageOrientation", "")[1:2] == "N"

    def read(number: int) -> Pixels:
        frame: NDArray[Any] = values[valid[number]].copy()  # ITK's memory goes with its image
        return to_grey(frame[::-1] if is_upside_down else frame, shown)

    frames = take_frames(read, starts, config.max_frames, by_change=config.sampling == "change")
    notes = ["frames marked invalid are left out"] if len(valid) < len(values) else []
    if is_upside_down:
        notes.append("pictures with the probe below are turned")
    return Loop(frames=frames, labels=_spacing(reader.GetSpacing()), notes=tuple(notes))


def _check(reader: "ImageFileReader", fields: Mapping[str, str], config: VideoConfig) -> None:
    """Hold the header to the limits; no value has been read yet."""
    kind = fields.get("UltrasoundImageType", "")
    if kind in _RAW_TYPES:
        raise RejectedImageError(
            f"raw_channel_data: {kind} lines of the probe, no pictures; convert them to brightness "
            "(in PLUS with RfProcessor) and record these"
        )
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) < 2 or components not in (1, 3):
        raise RejectedImageError(
            f"unsupported_mode: {len(size)} axes with {components} values each; save grey or RGB "
            "pictures"
        )
    width, height, count = size[0], size[1], int(np.prod(size[2:], dtype=np.int64))
    if width * height > config.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {width} x {height}, at most {config.max_pixels:,}; scale it down or "
            "raise video.max_pixels"
        )
    if count > config.max_length:
        raise RejectedImageError(
            f"too_many_frames: {count:,}, at most {config.max_length:,}; cut it or raise "
            "video.max_length"
        )
    import SimpleITK as sitk  # noqa: N813

    depth = sitk.Image([1, 1], reader.GetPixelID(), components).GetSizeOfPixelComponent()
    size_bytes = width * height * count * components * depth
    if size_bytes > config.max_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {size_bytes:,} bytes unpacked, at most {config.max_bytes:,}; cut it "
            "or raise video.max_bytes"
        )


def _check_data_place(path: Path, suffix: str) -> None:
    """Refuse a header that names a file elsewhere as its data."""
    if suffix == ".mhd":
        find_data_file(path)
    elif suffix == ".mha" and _read_field(path, "elementdatafile", separator="=") != "LOCAL":
        raise RejectedImageError(
            "outside_folder: the data do not lie in the .mha itself; save header and data as one"
        )
    elif suffix == ".nrrd" and any(
        _read_field(path, name, separator=":") is not None for name in ("data file", "datafile")
    ):
        raise RejectedImageError(
            "outside_folder: the data do not lie in the .nrrd itself; save header and data as one"
        )


def _read_field(path: Path, name: str, *, separator: str) -> str | None:
    """A field of a text header, which ends with `ElementDataFile` or an empty line."""
    left = _MAX_HEADER_BYTES
    try:
        with path.open("rb") as file:
            while left > 0 and (line := file.readline(min(left, 1_000_000))).strip():
                left -= len(line)
                key, found, value = line.decode("utf-8", errors="replace").partition(separator)
                key = key.strip().lower()
                if found and key == name:
                    return value.strip()
                if key == "elementdatafile":
                    return None
    except OSError as error:
        raise RejectedImageError(
            f"unreadable_file: it cannot be read ({error.strerror}); check its rights"
        ) from None
    return None


def _list_frames(
    fields: Mapping[str, str], count: int, config: VideoConfig
) -> tuple[list[int], list[int | None]]:
    """Positions of the valid frames, and when they are shown, in microseconds."""
    said: dict[str, dict[int, str]] = {"Timestamp": {}, "ImageStatus": {}}
    for key, value in fields.items():
        if found := _FRAME_FIELD.fullmatch(key):
            said[found[2]][int(found[1])] = value
    valid = [n for n in range(count) if said["ImageStatus"].get(n, "OK").upper() != "INVALID"]
    if not valid:
        raise RejectedImageError("unreadable: every frame is marked invalid; record it again")
    starts = [_microseconds(said["Timestamp"].get(n)) for n in valid]
    known = [start for start in starts if start is not None]
    if known and max(known) - min(known) > config.max_duration_s * 1e6:
        raise RejectedImageError(
            f"too_long: {(max(known) - min(known)) / 1e6:.0f} s, at most "
            f"{config.max_duration_s:g}; cut it or raise video.max_duration_s"
        )
    return valid, starts


def _microseconds(seconds: str | None) -> int | None:
    try:
        return None if seconds is None else round(float(seconds) * 1e6)
    except (ValueError, OverflowError):
        return None


def _window(fields: Mapping[str, str]) -> tuple[float, float] | None:
    """The values that NIfTI shows black and white; both are 0 where it names none."""
    try:
        return float(fields["cal_min"]), float(fields["cal_max"])
    except (KeyError, ValueError):
        return None


def _spacing(spacing: Sequence[float]) -> dict[str, str]:
    """Millimetres per pixel; 1 by 1 is what writers put where they know none."""
    x_mm, y_mm = spacing[:2]
    if (x_mm, y_mm) == (1, 1) or not (0 < x_mm < np.inf and 0 < y_mm < np.inf):
        return {}
    return {"spacing_mm_x": f"{x_mm:.6g}", "spacing_mm_y": f"{y_mm:.6g}"}
