"""Ingest: read a source into the workspace as studies, split by patient.

Steps 1 and 2 of the road; the work is `sonoray.ingest.run`. It runs in the driver, on threads: the
public sources decode in seconds, and a dataset needs one writer of its tables.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError
from sonoray.ingest.run import Accounting, ingest
from sonoray.ingest.sources.base import FetchCounts, RemoteSource, Source
from sonoray.ingest.text_files import is_utf8
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig

_DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # it becomes a file's name


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """What the command line says of a source; None where it says nothing."""

    path: Path | None = None
    """Folder or file."""
    name: str | None = None
    """The dataset's name, for sources that are no fixed public set."""
    images: Path | None = None
    """Folder of the images, where they lie apart."""
    language: str | None = None
    """Which language of a bilingual set to take."""
    reports: Path | None = None
    """Table of reports beside images that have none."""
    url: str | None = None
    """Address of a server, without credentials: they stand in the environment alone."""
    query: tuple[str, ...] | None = None
    """What to look for on a server, as `KEY=VALUE`."""

    def to_json(self) -> dict[str, Any]:
        """What is given, with paths that hold from any folder."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {
            key: str(value.expanduser().resolve()) if isinstance(value, Path) else value
            for key, value in given.items()
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "SourceOptions":
        """The options that `to_json` wrote."""
        read: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("name", "language", "url"), str),
            "query": tuple,
        }
        return cls(**{key: read.get(key, Path)(value) for key, value in given.items()})


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
    splits: Mapping[str, Mapping[str, int]]
    """By split: patients, studies, images."""
    without_text: int
    """Kept studies that are images alone."""
    without_images: int
    """Kept studies that are text alone."""
    reasons: Mapping[str, int]
    """By reason: rows of the quarantine table."""
    spellings: Mapping[str, int]
    """Names of patients that differ in case, width or blanks alone, and patients who bear them."""
    near_duplicates: Mapping[str, int]
    """Groups of patients who share a near-duplicate image, and patients in them."""
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
        for split, sizes in self.splits.items():
            rows.append(f"{split}: " + ", ".join(f"{n} {what}" for what, n in sizes.items()))
        if self.without_text or self.without_images:
            rows.append(
                f"incomplete: {self.without_text} studies without text, {self.without_images} "
                "without images; training and evaluation leave them out"
            )
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
    options: SourceOptions = SourceOptions(),
    address: str | None = None,
    again: bool = False,
) -> Ingested:
    """Ingest the source called `dataset`; a second time, nothing is done.

    Args:
        workspace: where the dataset goes.
        road: its section `ingest` counts, and that of the source's name where there is one.
        dataset: one of `SOURCES`; also the dataset's name from then on, unless `options` name it.
        options: where the files lie, and what the source may be told.
        address: accepted as by every job; nothing runs on a cluster here.
        again: do it a second time where rejects may pass (`sonoray.ingest.run`).

    Raises:
        ConfigError: the source is unknown, or an option is missing, superfluous or malformed.
        DataError: the source cannot be read.
        JobFailedError: a server that the source reads from is gone.
    """
    start = time.monotonic()
    source = build_source(dataset, options, road)
    origin = {"source": dataset, **options.to_json()}
    before = _find_before(workspace, source.name, origin)
    output = ingest(source, workspace, road.ingest, origin=origin, again=again)
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
        spellings=summary["spellings"],
        reused=output.reused,
        elapsed_s=time.monotonic() - start,
        fetch=source.fetch_counts() if isinstance(source, RemoteSource) else None,
        before=before if before and before.path != str(output.path) else None,
    )


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


def build_source(name: str, options: SourceOptions, road: RoadConfig) -> Source:
    """Make the source called `name`.

    Raises:
        ConfigError: there is none of that name, or an option is missing, superfluous or malformed.
        DataError: the path does not hold such a source.
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise ConfigError(f"source {name!r} is unknown; use one of {', '.join(SOURCES)}")
    given = {option: value for option, value in asdict(options).items() if value is not None}
    if "path" in kind.takes and options.path is None:
        raise ConfigError(f"source {name!r} needs its files; run: sonoray ingest {name} PATH")
    if "url" in kind.takes and options.url is None:
        raise ConfigError(f"source {name!r} needs its address; run: sonoray ingest {name} URL")
    if "path" in given and "path" not in kind.takes:
        raise ConfigError(f"source {name!r} reads no files; leave {str(options.path)!r} out")
    for option, value in options.to_json().items():
        # what the road keeps of it is UTF-8; a link or the current folder may have other bytes
        if isinstance(value, str) and not is_utf8(value):
            raise ConfigError(f"{option} {value!r} is not UTF-8; rename the file or folder")
    for option in given:
        if option not in kind.takes:
            raise ConfigError(f"source {name!r} takes no --{option}; leave it out")
    if options.name is not None and not _DATASET_NAME.fullmatch(options.name):
        raise ConfigError(
            f"--name {options.name!r} cannot name a dataset; use lower-case letters, digits, "
            "- and _"
        )
    if options.name in _KINDS and options.name != name:
        raise ConfigError(f"--name {options.name!r} is the name of another source; choose another")
    if options.images is not None and not options.images.is_dir():
        raise ConfigError(f"--images {str(options.images)!r} is no folder; check the path")
    return kind.build(road, **given)


def _phantom(road: RoadConfig) -> Source:
    from sonoray.ingest.sources.synthetic import PhantomSource

    return PhantomSource(road.phantom)


def _busbra(road: RoadConfig, *, path: Path) -> Source:
    from sonoray.ingest.published.busbra import BusBraSource

    return BusBraSource(path, limits=road.ingest.images)


def _busi(road: RoadConfig, *, path: Path) -> Source:
    from sonoray.ingest.published.busi import BusiSource

    return BusiSource(path, limits=road.ingest.images)


def _dicom(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.dicom_archive import DicomSource

    return DicomSource(config=road.dicom, limits=road.ingest.images, **given)


def _dicomweb(
    road: RoadConfig,
    *,
    url: str,
    query: tuple[str, ...] = (),
    **given: Any,  # noqa: ANN401 - checked against `takes`
) -> Source:
    from sonoray.ingest.dicomweb.search import read_query
    from sonoray.ingest.dicomweb.server_url import read_address
    from sonoray.ingest.sources.dicomweb_server import DicomWebSource

    return DicomWebSource(
        read_address(url, credentials_over_http=road.dicomweb.credentials_over_http),
        read_query(query),
        road.dicomweb,
        road.dicom,
        limits=road.ingest.images,
        **given,
    )


def _llava(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.llava import LlavaSource

    return LlavaSource(limits=road.ingest.images, **given)


def _pocovid(road: RoadConfig, *, path: Path) -> Source:
    from sonoray.ingest.published.pocovid import PocovidSource

    return PocovidSource(path, limits=road.ingest.images)


def _slake(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.published.slake import SlakeSource

    return SlakeSource(limits=road.ingest.images, **given)


def _table(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.table import TableSource

    return TableSource(video=road.video, limits=road.ingest.images, **given)


def _usreport(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.published.usreport import UsReportSource

    return UsReportSource(limits=road.ingest.images, **given)


def _video(road: RoadConfig, **given: Any) -> Source:  # noqa: ANN401 - checked against `takes`
    from sonoray.ingest.sources.video_folder import VideoSource

    return VideoSource(config=road.video, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """How a source is made."""

    build: Callable[..., Source]
    """From the road and those options that are given."""
    takes: Set[str] = frozenset({"path"})
    """Fields of `SourceOptions` that it has a use for; a path or an URL is then required."""


_KINDS: Mapping[str, _Kind] = {
    "busbra": _Kind(build=_busbra),
    "busi": _Kind(build=_busi),
    "dicom": _Kind(build=_dicom, takes={"path", "name", "reports"}),
    "dicomweb": _Kind(build=_dicomweb, takes={"url", "query", "name", "reports"}),
    "llava": _Kind(build=_llava, takes={"path", "images", "name"}),
    "phantom": _Kind(build=_phantom, takes=frozenset()),
    "pocovid": _Kind(build=_pocovid),
    "slake": _Kind(build=_slake, takes={"path", "images", "language"}),
    "table": _Kind(build=_table, takes={"path", "images", "name"}),
    "usreport": _Kind(build=_usreport, takes={"path", "images"}),
    "video": _Kind(build=_video, takes={"path", "name"}),
}
SOURCES = tuple(_KINDS)
"""Names that `build_source` knows."""


def locate(name: str, location: str | None) -> dict[str, Any]:
    """What the second argument of the command means to a source: its address, or its path."""
    if location is None:
        return {}
    is_url = name in _KINDS and "url" in _KINDS[name].takes
    return {"url": location} if is_url else {"path": Path(location)}


def _fetch_lines(counts: FetchCounts) -> list[str]:
    """What a person reads of a server's part."""
    failed = f", {counts.failed} failed" if counts.failed else ""
    rows = [
        f"fetched {counts.fetched} of {counts.listed} objects{failed}: {counts.requests} requests, "
        f"{counts.size_bytes / 1e6:.1f} MB, retried {counts.retried} requests"
    ]
    if counts.kept_in:
        rows.append(
            f"the others wait for another try in {counts.kept_in}; they are patients' data: remove "
            "the folder if there will be none"
        )
    return rows
