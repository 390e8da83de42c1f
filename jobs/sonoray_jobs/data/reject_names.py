"""Which files, or which objects of a server, the hashed names in a quarantine table are.

The quarantine table of a private source holds keyed hashes of names. With the key of the workspace
and the source at hand the operator gets the names back; they are printed and stored nowhere.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import DataError
from sonoray.ingest.builders import build_source
from sonoray.ingest.source_options import SourceOptions
from sonoray.ingest.sources.base import RemoteSource, Source
from sonoray.metrics.tables import Table
from sonoray.privacy.keys import IdentityKey
from sonoray.workspace import Workspace
from sonoray_jobs.data.rejects import Reject, read_rejects
from sonoray_jobs.road.config import RoadConfig

_FILES_SHOWN = 3
"""Images of a located study that are named with it."""


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


def _names_read(source: Source, key: IdentityKey) -> dict[tuple[str, str], str]:
    """Names of all items of a source, by kind and hashed name."""
    names: dict[tuple[str, str], str] = {}
    for study in source.iter_studies():
        files = [image.ref for image in study.images]
        whole = ", ".join([study.ref, *files[:_FILES_SHOWN], *["..."][: len(files) > _FILES_SHOWN]])
        names["row" if study.is_row else "study", key.source_ref(study.ref)] = whole
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
        names["row" if study.is_row else "study", key.source_ref(study.ref)] = study.where
        images = lost[key.study_id(study.ref)]
        for ref, where in study.images:
            if not images:
                break
            hashed = key.source_ref(ref)
            if hashed in images:
                images.remove(hashed)
                names["image", hashed] = where
    return names
