"""How a source becomes a dataset: the settings of `sonoray ingest`."""

from pydantic import Field

from sonoray.images.decode import ImageLimits
from sonoray.privacy.deidentify import DeidentifyConfig
from sonoray.study.near_duplicates import NUM_BITS
from sonoray.study.splits import SplitFractions


class IngestConfig(DeidentifyConfig):
    """How a source becomes a dataset."""

    splits: SplitFractions = SplitFractions()
    """Share of the patients in each split."""
    images: ImageLimits = ImageLimits()
    """What is accepted as an image."""
    near_duplicate_distance: int = Field(default=24, ge=0, lt=NUM_BITS // 2)
    """Differing bits, of 256, up to which two images are one picture; 0 links equal hashes only."""
    seed: int = 0
    """Draws another partition of the same patients."""
