"""Ingest: read a source into the workspace as studies, split by patient.

Steps 1 and 2 of the road; the work is `sonoray.ingest.run`. By default it runs in the driver, on
threads: the public sources decode in seconds. With `ingest.workers` an archive is prepared on Ray
(`sonoray_jobs.data.ingest_pipeline`); a dataset has one writer of its tables either way.
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.ingest.builders import build_source
from sonoray.ingest.intake import Accounting
from sonoray.ingest.prepared_parts import open_parts, remove_parts
from sonoray.ingest.run import ingest
from sonoray.ingest.source_options import NO_OPTIONS, SourceOptions
from sonoray.ingest.sources.base import FetchCounts, RemoteSource
from sonoray.ingest.split_studies import SEED_SETTING
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig

_SHARES_SHOWN = 3
"""Labels whose shares a person reads; `--json` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """A dataset whose name means another one now; its files stay."""

    what: str
    """`dicom /data/a`, or that it is an earlier version of the same source."""
    path: str
    """Its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What became of the source."""

    dataset: str
    path: str
    """Folder of the dataset."""
    images: Accounting
    studies: Accounting
    rows: int
    """Rows of tables beside the studies, as of reports, that no study could take."""
    splits: Mapping[str, Mapping[str, int]]
    """By split: patients, studies, images."""
    class_shares: Sequence[Mapping[str, Any]]
    """Of each label that is a class: the value whose shares differ most between the parts."""
    seed: Mapping[str, Any] | None
    """Another `ingest.seed` that spreads the classes better; None where none is needed or found."""
    parted: Mapping[str, int]
    """Of a published split: groups of linked patients that stand in several parts, and patients."""
    without_text: int
    """Kept studies that are images alone."""
    without_images: int
    """Kept studies that are text alone."""
    partly_read: int
    """Kept studies some of whose images could not be used."""
    remarks: Mapping[str, int]
    """By `reason: detail`: kept images or objects that are not as they came."""
    reasons: Mapping[str, int]
    """By reason: rows of the quarantine table."""
    spellings: Mapping[str, int]
    """Names of patients that differ in case, width or blanks alone, and patients who bear them."""
    near_duplicates: Mapping[str, int]
    """Groups of patients who share a near-duplicate image, and patients in them."""
    shared_images: Mapping[str, int]
    """Pictures that were set aside because many patients show them, and most patients of one."""
    reused: bool
    """True where nothing had changed since the last time."""
    elapsed_s: float
    fetch: FetchCounts | None = None
    """What a source that reads from a server did there."""
    before: Before | None = None
    """What the dataset's name meant until now; None where that is the same, or nothing."""

    def lines(self) -> list[str]:
        """What a person reads."""
        state = "unchanged" if self.reused else f"{self.elapsed_s:.1f} s"
        rows = [f"dataset {self.dataset} ({state}): {self.path}"]
        if self.before is not None:
            rows.append(
                f"the name {self.dataset} meant {self.before.what} until now, which stays in "
                f"{self.before.path}"
            )
        if self.fetch is not None:
            rows += _fetch_lines(self.fetch)
        for name, counts in (("studies", self.studies), ("images", self.images)):
            rows.append(
                f"{name}: {counts.seen} seen = {counts.kept} kept + {counts.duplicate} duplicate "
                f"+ {counts.quarantined} quarantined"
            )
        if self.rows:
            rows.append(f"rows of tables: {self.rows} quarantined")
        for split, sizes in self.splits.items():
            rows.append(f"{split}: " + ", ".join(f"{n} {what}" for what, n in sizes.items()))
        rows += _share_lines(self.class_shares, self.seed)
        if self.shared_images["images"]:
            rows.append(
                f"{self.shared_images['images']} pictures that up to "
                f"{self.shared_images['patients']} patients show were set aside: sonoray "
                f"quarantine list {self.dataset} --reason shared_image"
            )
        if self.without_text or self.without_images:
            rows.append(
                f"incomplete: {self.without_text} studies without text, {self.without_images} "
                "without images; training and evaluation leave them out"
            )
        if self.partly_read:
            rows.append(
                f"partly read: {self.partly_read} kept studies lack images that could not be used; "
                "each study's provenance says how many and why"
            )
        for remark, count in self.remarks.items():
            reason, _, detail = remark.partition(": ")
            rows.append(f"{reason} {count}: {detail}")
        if self.near_duplicates["patients"]:
            rows.append(
                f"near duplicates or names keep {self.near_duplicates['patients']} patients in "
                f"{self.near_duplicates['groups']} groups together"
            )
        if self.spellings["patients"]:
            rows.append(
                f"the names of {self.spellings['patients']} patients differ in case, width or "
                f"blanks alone ({self.spellings['groups']} names); give each person one name"
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
    options: SourceOptions = NO_OPTIONS,
    again: bool = False,
    address: str | None = None,
) -> Ingested:
    """Ingest the source called `dataset`; a second time, nothing is done.

    Args:
        workspace: where the dataset goes.
        road: its section `ingest` counts, and that of the source's name where there is one.
        dataset: one of `KNOWN_SOURCES`; also the dataset's name from then on, unless `options`
            name it.
        options: where the files lie, and what the source may be told.
        again: do it a second time where rejects may pass (`sonoray.ingest.run`).
        address: the cluster, as for every job; nothing is asked of it with `ingest.workers` 1.

    Raises:
        ConfigError: the source is unknown, or an option is missing, superfluous or malformed.
        DataError: the source cannot be read.
        JobFailedError: a server that the source reads from is gone.
        ClusterError: Ray cannot be reached, is too small, or does not see the files.
    """
    start = time.monotonic()
    source = build_source(dataset, options, road)
    origin = {"source": dataset, **options.to_json()}
    before = _find_before(workspace, source.name, origin)
    parts = workspace.parts(source.name)
    with contextlib.ExitStack() as stack:
        spread = None
        if road.ingest.workers != 1:
            from sonoray_jobs.data.ingest_pipeline import spread_on_ray

            stack.enter_context(open_parts(parts))
            places = [
                *(path for path in (options.path, options.images) if path is not None),
                *([workspace.spool(source.name)] if isinstance(source, RemoteSource) else []),
            ]
            spread = spread_on_ray(
                folder=parts, workers=road.ingest.workers, places=places, address=address
            )
        output = ingest(source, workspace, road.ingest, origin=origin, again=again, spread=spread)
        if spread is not None:
            remove_parts(parts)
    if spread is None:
        _remove_left_parts(parts)
    summary = output.manifest["summary"]
    return Ingested(
        dataset=source.name,
        path=str(output.path),
        images=Accounting(**summary["images"]),
        studies=Accounting(**summary["studies"]),
        rows=summary["rows"],
        splits=summary["splits"],
        class_shares=summary["class_shares"],
        seed=summary["seed"],
        parted=summary["parted"],
        shared_images=summary["shared_images"],
        without_text=summary["without_text"],
        without_images=summary["without_images"],
        partly_read=summary["partly_read"],
        remarks=summary["remarks"],
        reasons=summary["reasons"],
        near_duplicates=summary["near_duplicates"],
        spellings=summary["spellings"],
        reused=output.reused,
        elapsed_s=time.monotonic() - start,
        fetch=source.fetch_counts() if isinstance(source, RemoteSource) else None,
        before=before if before and before.path != str(output.path) else None,
    )


def _remove_left_parts(parts: Path) -> None:
    """Remove what an ingest with workers left that was killed, unless one goes on just now."""
    if parts.is_dir():
        with contextlib.suppress(DataError), open_parts(parts):
            remove_parts(parts)


def _find_before(workspace: Workspace, name: str, origin: Mapping[str, Any]) -> Before | None:
    """What the dataset `name` means before it comes from `origin`; None where it is not there."""
    if name not in workspace.dataset_names():
        return None
    pointer = workspace.dataset_pointer(name)
    folder = workspace.stages / pointer["stage"]
    if not folder.is_dir():
        return None
    old = pointer.get("origin") or {"source": "another source"}
    is_same = old == json.loads(json.dumps(origin))
    what = "an earlier version of this source" if is_same else _describe(old)
    return Before(what=what, path=str(folder))


def _describe(origin: Mapping[str, Any]) -> str:
    """Kind and place of a source; a query may name a patient and is left out."""
    return " ".join([origin["source"], *(origin[key] for key in ("path", "url") if key in origin)])


def _share_lines(shares: Sequence[Mapping[str, Any]], seed: Mapping[str, Any] | None) -> list[str]:
    """How far the shares of the classes differ between the parts, those that differ most."""
    rows = []
    for each in shares[:_SHARES_SHOWN]:
        parts = " / ".join(
            "-" if share is None else f"{100 * share:.0f}" for share in each["shares"].values()
        )
        rows.append(
            f"share of {each['label']} {each['value']} in {' / '.join(each['shares'])}: {parts} %"
        )
    if seed and seed["label"]:
        rows.append(
            f"--set {SEED_SETTING}={seed['seed']} keeps the shares of {seed['label']} within "
            f"{100 * seed['gap']:.0f} points; choose it before anything is trained"
        )
    return rows


def _fetch_lines(counts: FetchCounts) -> list[str]:
    """What a person reads of a server's part."""
    failed = f", {counts.failed} failed" if counts.failed else ""
    rows = [
        f"fetched {counts.fetched} of {counts.listed} objects{failed}: {counts.requests} requests, "
        f"{counts.size_bytes / 1e6:.1f} MB, retried {counts.retried} requests"
    ]
    if counts.left:
        rows.append(
            f"{counts.left} objects of other modalities were not fetched; dicom.modalities opens "
            "them"
        )
    if counts.converted:
        rows.append(
            f"{counts.converted} objects came as Explicit VR Little Endian, since they cannot be "
            "read as they are stored"
        )
    if counts.kept_in:
        rows.append(
            f"the others wait for another try in {counts.kept_in}; they are patients' data: remove "
            "the folder if there will be none"
        )
    return rows
