"""Ingest: read a source into the workspace as studies, split by patient.

Steps 1 and 2 of the road; the work is `sonoray.ingest`. It runs in the driver, on threads: the
public sources decode in seconds, and a dataset needs one writer of its tables.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError
from sonoray.ingest import Accounting, ingest
from sonoray.sources.base import Source
from sonoray.workspace import Workspace
from sonoray_jobs.road import RoadConfig


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
    name: str | None = None,
    reports: Path | None = None,
    address: str | None = None,
) -> Ingested:
    """Ingest a source; a second time, nothing is done.

    Args:
        workspace: where the dataset goes.
        road: its section `ingest` and the one of the source's name, if any, count.
        dataset: one of `SOURCES`; also the dataset's name from then on, unless `name` is given.
        path: the source's files; the phantom has none.
        name: of the dataset, for a source that is not one fixed public set.
        reports: table of reports, for a source that takes one.
        address: accepted as by every job; nothing runs on a cluster here.

    Raises:
        ConfigError: the source is unknown, or a path is missing or superfluous.
        DataError: the source cannot be read.
    """
    start = time.monotonic()
    source = build_source(dataset, path, road, name=name, reports=reports)
    output = ingest(source, workspace, road.ingest)
    summary = output.manifest["summary"]
    return Ingested(
        dataset=source.name,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line says of a source, beside its kind."""

    road: RoadConfig
    path: Path | None = None
    name: str | None = None
    """Name of the dataset, for sources that are not one fixed public set."""
    reports: Path | None = None


def build_source(
    kind: str,
    path: Path | None,
    road: RoadConfig,
    *,
    name: str | None = None,
    reports: Path | None = None,
) -> Source:
    """Make a source of a kind.

    Raises:
        ConfigError: there is no such kind, or an argument is missing or superfluous.
        DataError: the path does not hold such a source.
    """
    if kind not in _BUILDERS:
        raise ConfigError(f"source {kind!r} is unknown; use one of {', '.join(SOURCES)}")
    builder, taken = _BUILDERS[kind]
    given = {"PATH": path, "--name": name, "--reports": reports}
    for option, value in given.items():
        if value is not None and option not in taken:
            message = "reads no files" if option == "PATH" else f"takes no {option}"
            raise ConfigError(f"source {kind!r} {message}; leave {str(value)!r} out")
    if path is None and "PATH" in taken:
        raise ConfigError(f"source {kind!r} needs its files; run: sonoray ingest {kind} PATH")
    if name is not None:
        _check_name(name, kind)
    return builder(Request(road=road, path=path, name=name, reports=reports))


def _check_name(name: str, kind: str) -> None:
    """A dataset's name is part of file names, and does not pass for another source's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", name):
        raise ConfigError(
            f"--name {name!r} does not fit a file name; use up to 41 of a-z, 0-9, _ and -"
        )
    if name in SOURCES and name != kind:
        raise ConfigError(f"--name {name!r} is the name of another source; choose another")


def _build_phantom(request: Request) -> Source:
    from sonoray.sources.phantom import PhantomSource

    return PhantomSource(request.road.phantom)


def _build_busbra(request: Request) -> Source:
    from sonoray.sources.busbra import BusBraSource

    assert request.path is not None
    return BusBraSource(request.path)


def _build_dicom(request: Request) -> Source:
    from sonoray.sources.dicom import DicomSource

    assert request.path is not None
    return DicomSource(
        request.path,
        request.road.dicom,
        name=request.name or "dicom",
        limits=request.road.ingest.images,
        reports=request.reports,
    )


_BUILDERS: Mapping[str, tuple[Callable[[Request], Source], frozenset[str]]] = {
    "busbra": (_build_busbra, frozenset({"PATH"})),
    "dicom": (_build_dicom, frozenset({"PATH", "--name", "--reports"})),
    "phantom": (_build_phantom, frozenset()),
}
"""By kind: what builds it, and the arguments that it takes."""
SOURCES = tuple(_BUILDERS)
"""Kinds that `build_source` knows."""
