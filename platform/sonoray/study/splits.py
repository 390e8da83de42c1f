"""Splits by patient: the part of a dataset that a patient is in follows from the patient key.

A uniform number in [0, 1) from the key's hash falls into one of three intervals. Adding patients
therefore moves no other one, with one exception: patients whom a shared image, a near duplicate or
an identifier that differs only in spelling links follow the smallest key of their group
(`sonoray.study.same_patients`), so a newcomer who joins a group can move it.
"""

import hashlib

from pydantic import Field, model_validator

from sonoray.config.model import Config
from sonoray.study.contract import SPLITS


class SplitFractions(Config):
    """Share of the patients in each split; the three add up to 1."""

    train: float = Field(default=0.6, ge=0, le=1)
    """What the model learns from."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """What decisions during training look at."""
    test: float = Field(default=0.3, ge=0, le=1)
    """What the reported numbers come from."""

    @model_validator(mode="after")
    def _add_up(self) -> "SplitFractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test = {total:g}, they must add up to 1")
        return self


def assign_split(patient_key: str, fractions: SplitFractions, seed: int = 0) -> str:
    """Return the split of a patient, one of `study.SPLITS`.

    Args:
        patient_key: as `IdentityKey.patient_key` gives it.
        fractions: width of the intervals.
        seed: another seed draws another partition.
    """
    digest = hashlib.sha256(f"split\0{seed}\0{patient_key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < fractions.train:
        return SPLITS[0]
    return SPLITS[1] if position < fractions.train + fractions.validation else SPLITS[2]
