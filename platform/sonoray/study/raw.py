"""What a source yields: studies and images not yet decoded, checked, hashed or cleaned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sonoray.images.decode import Pixels
from sonoray.study.contract import Turn
from sonoray.study.identifiers import Identifiers

UNWANTED = frozenset({"other_modality", "other_class", "not_an_image"})
"""Reasons of what a study does not lack where it is refused: it is no picture, or none that is
read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawImage:
    """One image as the source has it, not yet decoded, hashed or checked."""

    ref: str
    """Where it stands in the source, as a relative path; unique within the source."""
    data: Path | bytes | Pixels
    """The encoded file: where it lies, or its bytes; or pixels where the source makes them."""
    mask: Path | bytes | Pixels | None = None
    """Lesion mask of the same geometry: 0 is background, 255 lesion, and pixels may hold other
    values inside of it (see `bootstrap.sam.mask_levels`). None where it is unknown."""
    frame_index: int = 0
    """Position in the cine loop that the frame was taken from; 0 for a still."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What is known of this image alone, as `caption` or `shows_finding` (`0` or `1`)."""
    is_cut: bool = False
    """Whether the source knew the scan area and cut the image to it. Where it did not, text that is
    found tells of a scanner's screen, see `sonoray.privacy.banners`."""
    problem: str = ""
    """`reason: detail` where the source itself could not read the image (a missing file); ingest
    quarantines it."""
    remarks: tuple[str, ...] = ()
    """`reason: detail` of each decision about an image that is kept but not as it came, without a
    word of a patient's: ingest counts them and tells them in the study's provenance."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawStudy:
    """One study as the source has it."""

    ref: str = field(repr=False)
    """Identifier within the source; ingest turns it into a keyed `study_id`."""
    patient_ref: str = field(repr=False)
    """The source's patient identifier; ingest hashes it with a key and never stores it."""
    images: tuple[RawImage, ...]
    turns: tuple[Turn, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    provenance: str = ""
    """Where the study comes from, in words that carry no patient's text."""
    identifiers: Identifiers = field(default_factory=Identifiers)
    """What else is known to identify its people; ingest searches the texts for it and keeps none of
    it."""
    study_date: str = field(default="", repr=False)
    """Day of the examination, `YYYYMMDD`; ingest stores it moved, or not at all."""
    split: str = ""
    """The part that the set's publisher put it in, where the source was asked for that; else empty,
    and ingest draws."""
    problem: str = ""
    """`reason: detail` where the study contradicts itself or breaks its format; ingest quarantines
    it with all its images."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """As `RawImage.remarks`, of the study or its objects: how many of them each concerns."""
    is_row: bool = False
    """True where this is a refused row of a table beside the studies, not a study: ingest
    quarantines it as a row."""
