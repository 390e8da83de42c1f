"""The sources that `sonoray ingest` knows, by name, with what each is told.

A table without code: messages that name a command (`Workspace.dataset`) and the options read it,
and so nothing that reads studies is imported with it. `builders` makes each source.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSource:
    """What a source may be told."""

    takes: Set[str] = frozenset({"path"})
    """Fields of `SourceOptions` that it has a use for; a path or an URL is then required."""

    @property
    def place(self) -> str:
        """What stands for its second argument in a command; empty where it is computed."""
        return next((option.upper() for option in ("path", "url") if option in self.takes), "")


KNOWN_SOURCES: Mapping[str, KnownSource] = {
    "busbra": KnownSource(takes={"path", "name"}),
    "busi": KnownSource(takes={"path", "name"}),
    "dicom": KnownSource(takes={"path", "name", "reports", "columns", "charset"}),
    "dicomweb": KnownSource(takes={"url", "query", "name", "reports", "columns", "charset"}),
    "feedback": KnownSource(takes={"url", "name"}),
    "llava": KnownSource(takes={"path", "images", "name"}),
    "phantom": KnownSource(takes={"name"}),
    "pocovid": KnownSource(takes={"path", "name", "split"}),
    "slake": KnownSource(takes={"path", "images", "language", "name", "split"}),
    "table": KnownSource(takes={"path", "images", "name", "columns"}),
    "usreport": KnownSource(takes={"path", "images", "name", "split"}),
    "video": KnownSource(takes={"path", "name"}),
}
"""By name, which is also the dataset's where `--name` gives no other."""


def how_to_ingest(dataset: str) -> str:
    """The command that makes a dataset of this name."""
    known = KNOWN_SOURCES.get(dataset)
    if known is None:
        return f"sonoray ingest SOURCE PATH --name {dataset}"
    return f"sonoray ingest {dataset} {known.place}".rstrip()
