"""The quarantine of a dataset: what ingest rejected and why, and another try.

Someone mends the files, or raises a limit, and tries again: the source is ingested once more, from
where it came from and with the configuration of now. What was rejected before is then looked for in
the new dataset. `locate` tells the operator which files, or which objects of a server, the hashed
names of a private source are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.ingest.builders import build_source
from sonoray.ingest.source_options import SourceOptions
from sonoray.ingest.sources.base import RemoteSource, Source
from sonoray.metrics.tables import Table
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.road.config import RoadConfig

_SHOWN = 20
"""Rows of each kind that a retry prints; `--json` has all."""
_FILES_SHOWN = 3
"""Images of a located study that are named with it."""
_HASH = re.compile("[0-9a-f]{64}")
_HASH_SHOWN = 12
"""Digits of a hashed name that a person sees; `--json` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """One row of the quarantine table."""

    item: str
    """`study` or `image`."""
    source_ref: str
    """A path within the source of a public set, a keyed hash for a private one."""
    study_id: str
    """The study that it is, or belongs to."""
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """The quarantine of a dataset."""

    dataset: str
    reasons: Mapping[str, int]
    """By reason: all rows, the most frequent first."""
    rows: Sequence[Reject]
    """Those of the reason that was asked for, or all."""
    shown: int
    """Most rows that a person reads."""

    def lines(self) -> list[str]:
        """What a person reads."""
        if not self.reasons:
            return [f"dataset {self.dataset}: nothing was rejected"]
        rows = tuple((reason, str(number)) for reason, number in self.reasons.items())
        table = Table(header=("reason", "rows"), rows=rows)
        shown = self.rows[: self.shown]
        more = len(self.rows) - len(shown)
        return [
            f"dataset {self.dataset}: {sum(self.reasons.values())} rejected",
            *table.text(),
            *(["", *_reject_table(shown)] if shown else []),
            *([f"and {more} more; --show N, or --json for all"] if more else []),
            *([f"names: sonoray quarantine locate {self.dataset}"] if _has_hashes(shown) else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "dataset": self.dataset,
            "reasons": dict(self.reasons),
            "rows": [asdict(row) for row in self.rows],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Retried:
    """What another ingest of the same source changed."""

    ingested: ingest.Ingested
    previous: str
    """Folder of the dataset before."""
    accepted: Sequence[Reject]
    """Rejected before and in the dataset now, with their old reasons."""
    gone: Sequence[Reject]
    """Rejected before, neither rejected nor in the dataset now: removed, renamed or a duplicate."""
    still: Sequence[Reject]
    """Rejected before and now, with their new reasons."""
    newly: Sequence[Reject]
    """Rejected now and not before."""
    new_studies: int
    """Studies that the dataset did not have."""
    lost_studies: int
    """Studies that it has no longer."""

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = self.ingested.lines()
        if self.ingested.path == self.previous:
            rows.append("nothing changed: the same files with the same configuration")
        rows.append(
            f"of {len(self.accepted) + len(self.gone) + len(self.still)} rejected before: "
            f"{len(self.accepted)} accepted now, {len(self.still)} still rejected, "
            f"{len(self.gone)} gone or now duplicates; newly rejected: {len(self.newly)}"
        )
        rows.append(f"studies: {self.new_studies} new, {self.lost_studies} no longer there")
        for title, rejects in (("accepted now", self.accepted), ("newly rejected", self.newly)):
            if rejects:
                rows += ["", f"{title}:", *_reject_table(rejects[:_SHOWN])]
                if len(rejects) > _SHOWN:
                    rows.append(f"and {len(rejects) - _SHOWN} more; --json has all")
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            **{name: [asdict(row) for row in getattr(self, name)] for name in _GROUPS},
            "new_studies": self.new_studies,
            "lost_studies": self.lost_studies,
            "previous": self.previous,
            "ingested": self.ingested.to_json(),
        }


_GROUPS = ("accepted", "gone", "still", "newly")


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Where the rejects of a private source lie: for the operator's eyes, and stored nowhere."""

    dataset: str
    rows: Sequence[tuple[Reject, str]]
    """Each reject with its name in the source; a study also with those of its first images."""
    missing: int
    """Rejects that the source does not have now."""

    def lines(self) -> list[str]:
        """What a person reads."""
        cells = tuple((row.reason, row.item, name, row.message) for row, name in self.rows)
        table = Table(header=("reason", "item", "where", "what"), rows=cells)
        return [
            f"dataset {self.dataset}: {len(self.rows)} rejects found in the source, "
            f"{self.missing} not there now",
            *(table.text() if cells else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        rows = [{**asdict(row), "where": name} for row, name in self.rows]
        return {"dataset": self.dataset, "rows": rows, "missing": self.missing}


def list_rows(
    *,
    workspace: Workspace,
    dataset: str,
    reason: str | None = None,
    show: int = 20,
) -> Listed:
    """List what ingest rejected.

    Args:
        workspace: where the dataset is.
        dataset: name of the dataset.
        reason: rows of this reason alone.
        show: most rows that a person reads.

    Raises:
        DataError: there is no such dataset, or nothing was rejected for this reason.
    """
    rows = read_rejects(workspace.dataset(dataset).path)
    reasons = dict(Counter(row.reason for row in rows).most_common())
    if reason is not None and reason not in reasons:
        raise DataError(
            f"dataset {dataset!r} has no reject with reason {reason!r}; there are "
            f"{', '.join(reasons) or 'none at all'}"
        )
    chosen = [row for row in rows if reason in (None, row.reason)]
    return Listed(dataset=dataset, reasons=reasons, rows=chosen, shown=show)


def retry(*, workspace: Workspace, road: RoadConfig, dataset: str) -> Retried:
    """Ingest a dataset's source again and say what became of what was rejected.

    Where nothing changed, it is done again for rejects of `PASSING_REASONS` alone. The dataset's
    name moves only if the ingest succeeds; the old version stays in the workspace.

    Args:
        workspace: where the dataset is.
        road: its section `ingest` counts, as in `ingest`.
        dataset: name of the dataset.

    Raises:
        DataError: there is no such dataset, it does not say where it came from, or the source
            cannot be read.
    """
    before = workspace.dataset(dataset)
    origin = workspace.dataset_origin(dataset)
    source = origin.pop("source")
    options = SourceOptions.from_json(origin)
    ingested = ingest.run(
        workspace=workspace, road=road, dataset=source, options=options, again=True
    )
    after = workspace.dataset(dataset)
    old, new = (read_rejects(output.path) for output in (before, after))
    old_studies = {each.study_id for each in iter_studies(before.path, complete=False)}
    studies, images = set[str](), set[str]()
    for study in iter_studies(after.path, complete=False):
        studies.add(study.study_id)
        images.update(image.source_ref for image in study.images)

    def is_kept(row: Reject) -> bool:
        return row.study_id in studies if row.item == "study" else row.source_ref in images

    known = {(row.item, row.source_ref) for row in old}
    rejected = {(row.item, row.source_ref) for row in new}
    freed = [row for row in old if (row.item, row.source_ref) not in rejected]
    return Retried(
        ingested=ingested,
        previous=str(before.path),
        accepted=[row for row in freed if is_kept(row)],
        gone=[row for row in freed if not is_kept(row)],
        still=[row for row in new if (row.item, row.source_ref) in known],
        newly=[row for row in new if (row.item, row.source_ref) not in known],
        new_studies=len(studies - old_studies),
        lost_studies=len(old_studies - studies),
    )


def locate(*, workspace: Workspace, road: RoadConfig, dataset: str) -> Located:
    """Say which files and rows of the source, or which objects of a server, the rejects are.

    The quarantine table of a private source has keyed hashes, so that it can be shared. This reads
    the source again, or asks the server what it has, and hashes the names with the key of the
    workspace; nothing is written, and no object is fetched.

    Args:
        workspace: where the dataset and the key are.
        road: as the dataset was ingested with.
        dataset: name of the dataset.

    Raises:
        DataError: there is no such dataset, it does not say where it came from, the source cannot
            be read or searched, or the key is missing or another one.
        JobFailedError: the server is gone.
    """
    output = workspace.dataset(dataset)
    rejects = read_rejects(output.path)
    origin = workspace.dataset_origin(dataset)
    kind = origin.pop("source")
    source = build_source(kind, SourceOptions.from_json(origin), road)
    key = IdentityKey.public() if source.public else IdentityKey.load(workspace, create=False)
    if key.fingerprint not in output.manifest["inputs"]:
        raise DataError(
            f"the identity key of workspace {str(workspace.root)!r} is not the one under which the "
            f"names of dataset {dataset!r} were hashed; restore that one as identity.key, or "
            f"ingest again under this one: sonoray quarantine retry {dataset}"
        )
    names = (
        _names_listed(source, key, rejects)
        if isinstance(source, RemoteSource)
        else _names_read(source, key)
    )
    keys = [(row, (row.item, row.source_ref)) for row in rejects]
    found = [(row, names[key]) for row, key in keys if key in names]
    return Located(dataset=dataset, rows=found, missing=len(rejects) - len(found))


def read_rejects(folder: Path) -> list[Reject]:
    """Read the quarantine table of a dataset folder.

    Raises:
        DataError: it is missing, or an older version wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / "quarantine.parquet").to_pylist()
        return [Reject(**row) for row in rows]
    except (OSError, pa.ArrowInvalid, TypeError):
        raise DataError(
            f"dataset folder {str(folder)!r} has no quarantine table that this version reads; "
            "run: sonoray ingest"
        ) from None


def _names_read(source: Source, key: IdentityKey) -> dict[tuple[str, str], str]:
    """Names of all items of a source, by kind and hashed name."""
    names: dict[tuple[str, str], str] = {}
    for study in source.iter_studies():
        files = [image.ref for image in study.images]
        whole = ", ".join([study.ref, *files[:_FILES_SHOWN], *["..."][: len(files) > _FILES_SHOWN]])
        names["study", key.source_ref(study.ref)] = whole
        names |= {("image", key.source_ref(file)): file for file in files}
    return names


def _names_listed(
    source: RemoteSource, key: IdentityKey, rejects: Sequence[Reject]
) -> dict[tuple[str, str], str]:
    """Where a server has the rejects and all studies, by kind and hashed name."""
    names: dict[tuple[str, str], str] = {}
    lost: defaultdict[str, set[str]] = defaultdict(set)
    for row in rejects:
        if row.item == "image":
            lost[row.study_id].add(row.source_ref)
    for study in source.iter_listed():
        names["study", key.source_ref(study.ref)] = study.where
        images = lost[key.study_id(study.ref)]
        for ref, where in study.images:
            if not images:
                break
            hashed = key.source_ref(ref)
            if hashed in images:
                images.remove(hashed)
                names["image", hashed] = where
    return names


def _has_hashes(rows: Sequence[Reject]) -> bool:
    return any(_HASH.fullmatch(each.source_ref) for each in rows)


def _reject_table(rows: Sequence[Reject]) -> list[str]:
    cells = tuple(
        (
            each.reason,
            each.item,
            _HASH.sub(lambda found: found[0][:_HASH_SHOWN], each.source_ref),
            each.message,
        )
        for each in rows
    )
    return Table(header=("reason", "item", "where", "what"), rows=cells).text()
