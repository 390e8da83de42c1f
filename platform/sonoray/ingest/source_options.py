"""What a command says of a source: where it lies and what it is told.

The same values stand in the workspace beside the dataset, for another ingest of it. They are
checked here, against `known_sources`, before anything is read.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError
from sonoray.files.text_files import is_charset, is_utf8
from sonoray.known_sources import KNOWN_SOURCES

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Of a dataset; it becomes a file's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """What the command line says of a source; None where it says nothing."""

    path: Path | None = None
    """Folder or file."""
    name: str | None = None
    """The dataset's name, where it is not the source's."""
    images: Path | None = None
    """Folder of the images, where they lie apart."""
    language: str | None = None
    """Which language of a bilingual set to take."""
    split: str | None = None
    """`published`, also with a fold behind a colon: the split that a public set came with."""
    reports: Path | None = None
    """Table of reports beside images that have none."""
    columns: tuple[str, ...] | None = None
    """What the columns of a table are called, as `NAME=COLUMN,...`."""
    url: str | None = None
    """Address of a server, without credentials: they stand in the environment alone."""
    query: tuple[str, ...] | None = None
    """What to look for on a server, as `KEY=VALUE`."""
    charset: str | None = None
    """Python's name of the character set of DICOM texts, in place of what objects declare."""

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
            **dict.fromkeys(("name", "language", "split", "url", "charset"), str),
            **dict.fromkeys(("query", "columns"), tuple),
        }
        return cls(**{key: read.get(key, Path)(value) for key, value in given.items()})

    def checked(self, name: str) -> dict[str, Any]:
        """Return what is given, where the source called `name` takes that and no less.

        Raises:
            ConfigError: there is none of that name, or an option is missing, superfluous or
                malformed.
        """
        known = KNOWN_SOURCES.get(name)
        if known is None:
            raise ConfigError(f"source {name!r} is unknown; use one of {', '.join(KNOWN_SOURCES)}")
        given = {option: value for option, value in asdict(self).items() if value is not None}
        if "path" in known.takes and self.path is None:
            raise ConfigError(f"source {name!r} needs its files; run: sonoray ingest {name} PATH")
        if "url" in known.takes and self.url is None:
            raise ConfigError(f"source {name!r} needs its address; run: sonoray ingest {name} URL")
        if "path" in given and "path" not in known.takes:
            raise ConfigError(f"source {name!r} reads no files; leave {str(self.path)!r} out")
        for option, value in self.to_json().items():
            # what the road keeps of it is UTF-8; a link or the current folder may have other bytes
            if isinstance(value, str) and not is_utf8(value):
                raise ConfigError(f"{option} {value!r} is not UTF-8; rename the file or folder")
        for option in given:
            if option not in known.takes:
                raise ConfigError(f"source {name!r} takes no --{option}; leave it out")
        if self.name is not None and not DATASET_NAME.fullmatch(self.name):
            raise ConfigError(
                f"--name {self.name!r} cannot name a dataset; use lower-case letters, digits, "
                "- and _"
            )
        if self.name in KNOWN_SOURCES and self.name != name:
            raise ConfigError(f"--name {self.name!r} is the name of another source; choose another")
        if self.charset is not None and not (self.charset and is_charset(self.charset)):
            raise ConfigError(
                f"--charset {self.charset!r} is no character set of Python; use gb18030, utf-8, "
                "big5, euc_kr, shift_jis or another"
            )
        if self.columns and "reports" in known.takes and self.reports is None:
            raise ConfigError(
                "--columns says what the columns of a table of reports are called; give the table "
                "with --reports"
            )
        if self.images is not None and not self.images.is_dir():
            raise ConfigError(f"--images {str(self.images)!r} is no folder; check the path")
        return given


NO_OPTIONS = SourceOptions()


def locate(name: str, location: str | None) -> dict[str, Any]:
    """What the second argument of the command means to a source: its address, or its path."""
    if location is None:
        return {}
    is_url = name in KNOWN_SOURCES and "url" in KNOWN_SOURCES[name].takes
    return {"url": location} if is_url else {"path": Path(location)}
