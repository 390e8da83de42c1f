"""How a source becomes a dataset: the settings of `sonoray ingest`."""

from pydantic import Field

from sonoray.images.decode import ImageLimits
from sonoray.privacy.deidentify import DeidentifyConfig
from sonoray.study.near_duplicates import MIN_CORRELATION, NUM_BITS
from sonoray.study.splits import HoldOut, SplitFractions

INGEST_PLACEMENT = frozenset({"workers"})
"""Settings that say where work runs and not what comes out: no key of a dataset holds them."""


class IngestConfig(DeidentifyConfig):
    """How a source becomes a dataset."""

    splits: SplitFractions = SplitFractions()
    """Share of the patients in each split."""
    hold_out: HoldOut | None = None
    """Patients of a scanner, a site or another label's value that are kept out of the training."""
    images: ImageLimits = ImageLimits()
    """What is accepted as an image."""
    near_duplicate_distance: int = Field(default=24, ge=0, lt=NUM_BITS // 2)
    """Differing bits, of 256, up to which two images are one picture; 0 links equal hashes only."""
    near_duplicate_correlation: float = Field(default=MIN_CORRELATION, gt=0, le=1)
    """Correlation of their detail from which two images that differ in up to 48 bits are one
    picture too; 1 lets the distance alone decide."""
    shared_image_patients: int = Field(default=10, ge=0)
    """Patients from which a picture that they all show is a page of the scanner, and none of
    theirs: it is quarantined (`shared_image`) and links nobody; 0 keeps every picture."""
    seed: int = 0
    """Draws another partition of the same patients."""
    workers: int = Field(default=1, ge=0)
    """Processes that decode and check, as Ray actors of one CPU each; 0: as many as the cluster has
    CPUs. With 1 the command does it by itself, on threads and without Ray, which takes a while to
    start. The dataset is the same, to the byte, for any number."""
