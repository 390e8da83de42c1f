"""The quarantine of a dataset: what ingest rejected and why, and another try.

Someone mends the files, or raises a limit, and tries again: the source is ingested once more, from
where it came from and with the configuration of now. What was rejected before is then looked for in
the new dataset.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import DataError
from sonoray.ingest.source_options import SourceOptions
from sonoray.metrics.tables import Table
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.data.rejects import Reject, has_hashes, read_rejects, reject_table
from sonoray_jobs.road.config import RoadConfig

_SHOWN = 20
"""Rows of each kind that a retry prints; `--json` has all."""


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
            *(["", *reject_table(shown)] if shown else []),
            *([f"and {more} more; --show N, or --json for all"] if more else []),
            *([f"names: sonoray quarantine locate {self.dataset}"] if has_hashes(shown) else []),
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
                rows += ["", f"{title}:", *reject_table(rejects[:_SHOWN])]
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


def retry(
    *, workspace: Workspace, road: RoadConfig, dataset: str, address: str | None = None
) -> Retried:
    """Ingest a dataset's source again and say what became of what was rejected.

    Where nothing changed, it is done again for rejects of `PASSING_REASONS` alone. The dataset's
    name moves only if the ingest succeeds; the old version stays in the workspace.

    Args:
        workspace: where the dataset is.
        road: its section `ingest` counts, as in `ingest`.
        dataset: name of the dataset.
        address: the cluster, as in `ingest`.

    Raises:
        DataError: there is no such dataset, it does not say where it came from, or the source
            cannot be read.
    """
    before = workspace.dataset(dataset)
    origin = workspace.dataset_origin(dataset)
    source = origin.pop("source")
    options = SourceOptions.from_json(origin)
    ingested = ingest.run(
        workspace=workspace,
        road=road,
        dataset=source,
        options=options,
        again=True,
        address=address,
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
