"""Ingest: read a source into the workspace as studies, split by patient.

Steps 1 and 2 of the road; the work is `sonoray.ingest`. It runs in the driver, on threads: the
public sources decode in seconds, and a dataset needs one writer of its tables.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError
from sonoray.ingest import Accounting, ingest
from sonoray.sources.base import Source
from sonoray.workspace import Workspace
from sonoray_jobs.road import RoadConfig

SOURCES = ("busbra", "phantom")
"""Names that `build_source` knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What became of the source."""

    dataset: str
    path: str
    """Folder of the dataset."""
    images: Accounting
    studies: Accounting
    splits: Mapping[str, Mapping[str, int]]
    """By split: patients, studies, images."""
    without_text: int
    """Kept studies that are images alone."""
    without_images: int
    """Kept studies that are text alone."""
    reasons: Mapping[str, int]
    """By reason: rows of the quarantine table."""
    near_duplicates: Mapping[str, int]
    """Groups of patients who share a near-duplicate image, and patients in them."""
    reused: bool
    """True where nothing had changed since the last time."""
    elapsed_s: float

    def lines(self) -> list[str]:
        """What a person reads."""
        state = "unchanged" if self.reused else f"{self.elapsed_s:.1f} s"
        rows = [f"dataset {self.dataset} ({state}): {self.path}"]
        for name, counts in (("studies", self.studies), ("images", self.images)):
            rows.append(
                f"{name}: {counts.seen} seen = {counts.kept} kept + {counts.duplicate} duplicate "
                f"+ {counts.quarantined} quarantined"
            )
        for split, sizes in self.splits.items():
            rows.append(f"{split}: " + ", ".join(f"{n} {what}" for what, n in sizes.items()))
        if self.without_text or self.without_images:
            rows.append(
                f"incomplete: {self.without_text} studies without text, {self.without_images} "
                "without images; training and evaluation leave them out"
            )
        if self.near_duplicates["patients"]:
            rows.append(
                f"near duplicates keep {self.near_duplicates['patients']} patients in "
                f"{self.near_duplicates['groups']} groups together"
            )
        if self.reasons:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            rows.append(f"quarantine ({self.path}/quarantine.parquet): {reasons}")
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return asdict(self)


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    path: Path | None = None,
    address: str | None = None,
) -> Ingested:
    """Ingest the source called `dataset`; a second time, nothing is done.

    Args:
        workspace: where the dataset goes.
        road: its sections `ingest` and, for the phantom, `phantom` count.
        dataset: one of `SOURCES`; also the dataset's name from then on.
        path: folder of the source's files; the phantom has none.
        address: accepted as by every job; nothing runs on a cluster here.

    Raises:
        ConfigError: the source is unknown, or a path is missing or superfluous.
        DataError: the source cannot be read.
    """
    start = time.monotonic()
    output = ingest(build_source(dataset, path, road), workspace, road.ingest)
    summary = output.manifest["summary"]
    return Ingested(
        dataset=dataset,
        path=str(output.path),
        images=Accounting(**summary["images"]),
        studies=Accounting(**summary["studies"]),
        splits=summary["splits"],
        without_text=summary["without_text"],
        without_images=summary["without_images"],
        reasons=summary["reasons"],
        near_duplicates=summary["near_duplicates"],
        reused=output.reused,
        elapsed_s=time.monotonic() - start,
    )


def build_source(name: str, path: Path | None, road: RoadConfig) -> Source:
    """Make the source called `name`.

    Raises:
        ConfigError: there is none of that name, or a path is missing or superfluous.
        DataError: the path does not hold such a source.
    """
    if name == "phantom":
        from sonoray.sources.phantom import PhantomSource

        if path is not None:
            raise ConfigError(f"source 'phantom' reads no files; leave {str(path)!r} out")
        return PhantomSource(road.phantom)
    if name == "busbra":
        from sonoray.sources.busbra import BusBraSource

        if path is None:
            raise ConfigError("source 'busbra' needs its folder; run: sonoray ingest busbra PATH")
        return BusBraSource(path)
    raise ConfigError(f"source {name!r} is unknown; use one of {', '.join(SOURCES)}")
