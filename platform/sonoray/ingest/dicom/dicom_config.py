"""What is done to DICOM objects: which frames, which part of the picture, how much is accepted."""

from typing import Literal

from pydantic import Field, field_validator

from sonoray.config.model import Config
from sonoray.files.text_files import is_charset


class FrameConfig(Config):
    """Which frames of a cine loop become images."""

    sampling: Literal["uniform", "change"] = "uniform"
    """`uniform` takes the middles of equal stretches of time (Frame Time Vector) and decodes
    nothing else; `change` takes the middles of equal shares of the change between neighbours, so
    that a still stretch gives fewer frames."""
    max_frames: int = Field(default=8, ge=1)
    """Most frames of one object; a shorter loop is taken whole."""
    max_probed: int = Field(default=128, ge=2)
    """Most frames that `change` looks at, spread evenly over the loop."""


class DicomLimits(Config):
    """How much an object, an archive and a decoding process may take."""

    max_object_bytes: int = Field(default=1_000_000_000, gt=0)
    """Largest file, and largest unpacked entry of an archive."""
    max_frames: int = Field(default=10_000, gt=0)
    """Most frames that an object may announce."""
    max_decoded_bytes: int = Field(default=1_000_000_000, gt=0)
    """Most bytes that the chosen frames of an object may take decoded; others are not kept."""
    max_entries: int = Field(default=1_000_000, gt=0)
    """Most entries of an archive."""
    max_archive_bytes: int = Field(default=1_000_000_000_000, gt=0)
    """Most bytes of all entries of an archive, unpacked."""
    worker_memory_bytes: int = Field(default=2_000_000_000, gt=0)
    """What a decoding process may allocate on top of what it needs to start."""
    worker_timeout_s: float = Field(default=120, gt=0)
    """Longest time for one object."""


class DicomConfig(Config):
    """How DICOM objects become images."""

    modalities: tuple[str, ...] = ("US",)
    """Modalities whose pictures are read, by the codes of Modality (0008,0060), as `US`, `DX`,
    `CR`. US stands for the ultrasound classes and for secondary captures of Modality US; of the
    others each class is read. Objects of other modalities are quarantined."""
    frames: FrameConfig = FrameConfig()
    crop: Literal["none", "where_known", "required"] = "where_known"
    """Whether a picture is cut to its scan area, which the object's ultrasound regions tell;
    `required` quarantines pictures that tell none."""
    burned_in: Literal["quarantine", "keep"] = "quarantine"
    """What becomes of a picture that says that identifying text is burned into it (Burned In
    Annotation is YES) and that no cut to a scan area rids of anything."""
    missing_patient: Literal["quarantine", "per_study"] = "quarantine"
    """What becomes of a study without a Patient ID; `per_study` takes it for a patient of its own,
    which lets one person's studies fall into different splits."""
    charset: str = "GB18030"
    """Python's name of the character set of texts whose object declares none and that are no UTF-8
    either."""
    declared_charset: str = ""
    """Python's name of the character set that counts in place of what objects declare, as
    `--charset` sets it; empty for what they declare."""
    limits: DicomLimits = DicomLimits()

    @field_validator("charset", "declared_charset")
    @classmethod
    def _check_charset(cls, name: str) -> str:
        if name and not is_charset(name):
            raise ValueError(f"{name!r} is no character set of Python; use gb18030, utf-8 or big5")
        return name
