"""The phantom as a data source: nothing is read, everything follows from the configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sonoray.phantom import PhantomConfig, iter_phantom
from sonoray.sources.base import RawStudy
from sonoray.stages import source_digest


@dataclass(frozen=True, slots=True)
class PhantomSource:
    """Studies of `sonoray.phantom`."""

    settings: PhantomConfig
    name: str = "phantom"
    public: bool = True

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return self.settings.num_patients * self.settings.studies_per_patient

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield every study once, patient by patient."""
        return iter_phantom(self.settings)

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return self.settings.model_dump(mode="json")

    def input_digest(self) -> str:
        """Return the digest of the generator's source: its code is its only input."""
        return source_digest("sonoray.phantom")
