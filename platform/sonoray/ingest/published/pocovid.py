"""POCOVID: lung ultrasound of COVID-19, bacterial pneumonia and healthy lungs, frames of videos.

Born, Wiedemann, Cossio, Buhre, Braendle, Leidermann, Aujayeb, Moor, Rieck, Borgwardt: "Accelerating
detection of lung pathologies with explainable ultrasound image analysis", Applied Sciences 11
(2021). Collected from publications and web pages, with what those say of patient and disease.

Expected: the table of the videos (`dataset_metadata.csv` as published, or `metadata_dev.csv`) and
the frames that the authors' script cuts out of them, `image_dataset/covid/NAME.mov_frame13.jpg`;
stills are `image_dataset/pneumonia/NAME.png`. NAME is the table's `Filename`, exactly. A file whose
name no row has, or more than one, is quarantined; so is a video whose row names another class than
its folder, no patient, or another kind of recording. Nothing is guessed from the names.

One video, or one still, is a study; its images are the frames in their order. The question is
closed, on the class. `published` takes the folds of `cross_val.json`, as the authors published them
beside the table: the recordings of fold 0, or of the fold that `published:2` names, are the test
split, its other ones the training split. There is no validation part. A recording that the folds do
not name, as all stills, is quarantined then.

Viral pneumonia, of which the set has few, is no class here. The table's other
columns (A-lines, B-lines, symptoms) are too incomplete to ask for: of the healthy, some have
`Healthy` 0.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError, DataError
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import (
    Entry,
    Row,
    digest_files,
    load_image,
    read_csv,
    read_json,
    unusable,
)
from sonoray.study.contract import SPLITS, Task, Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawImage, RawStudy

TABLES = ("dataset_metadata.csv", "metadata_dev.csv")
CLASSES = {
    "covid": ("COVID-19", "新冠肺炎"),
    "pneumonia": ("Bacterial pneumonia", "细菌性肺炎"),
    "regular": ("regular", "正常"),
}
"""The table's `Label` and the Chinese name, by folder."""

_IMAGES = "image_dataset"
_FOLDS = "cross_val.json"
_PATIENT = "Patient ID / Name"
_COLUMNS = ("Filename", "Label", "Type", "Probe", _PATIENT, "Gender", "Age", "InThisRepo")
_FRAME = re.compile(r"(?P<file>.+\.[A-Za-z0-9]+)_frame(?P<number>\d+)")
_SEX = {"m": "male", "w": "female"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """A video or a still."""

    ref: str
    """`folder/file`, as it was before frames were cut out."""
    folder: str
    filename: str
    """As the table has it."""
    kind: str
    """`video` or `image`, as the table has it."""
    frames: list[tuple[int, Path]] = field(default_factory=list)


class PocovidSource:
    """Reads a POCOVID folder."""

    set_name = "pocovid"
    public = True

    def __init__(
        self,
        folder: Path,
        *,
        name: str = set_name,
        split: str | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Read the table and the file names; no image is opened.

        Args:
            folder: that of the table.
            name: the dataset's name.
            split: `published` or `published:FOLD` takes the authors' folds.
            limits: what is accepted as an image.

        Raises:
            ConfigError: there is no such split.
            DataError: the table, a column of it, the folder of the frames or the folds are missing.
        """
        self.name = name
        self._folder = folder
        self._split = split
        self._folds = None if split is None else _read_fold(folder / _FOLDS, split)
        self._limits = limits
        tables = [folder / name for name in TABLES if (folder / name).is_file()]
        if not tables:
            raise DataError(f"no table {' or '.join(TABLES)} in {str(folder)!r}; give its folder")
        self._table = tables[0]
        self._files = sorted(path for path in (folder / _IMAGES).glob("*/*") if path.is_file())
        if not self._files:
            raise DataError(f"no frames in {str(folder / _IMAGES)!r}; cut them out of the videos")
        self._recordings = _group(self._files)
        self._rows: dict[str, list[Row]] = {}
        self._malformed: list[Entry[Row]] = []
        for entry in read_csv(self._table, _COLUMNS):
            if entry.problem or not entry.value:
                self._malformed.append(entry)
            else:
                self._rows.setdefault(entry.value["Filename"], []).append(entry.value)
        self._claims = Counter(recording.filename for recording in self._recordings)
        self._missing = [
            name
            for name, rows in self._rows.items()
            if name not in self._claims and any(row["InThisRepo"] == "Yes" for row in rows)
        ]

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._recordings) + len(self._malformed) + len(self._missing)

    def config(self) -> dict[str, Any]:
        """The split that was asked for."""
        return {} if self._split is None else {"split": self._split}

    def input_digest(self) -> str:
        """Sha256 (hex) over the names and contents of the table and the frames."""
        images = {str(path.relative_to(self._folder)): path for path in self._files}
        table = {self._table.name: self._table}
        if self._folds is not None:
            table[_FOLDS] = self._folder / _FOLDS
        return digest_files(table, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per recording in file order, then the rows that have none."""
        for recording in self._recordings:
            yield self._study(recording)
        for entry in self._malformed:
            yield unusable(entry.ref, entry.problem, is_row=True)
        for name in self._missing:
            problem = f"missing_file: no frame of {name!r} in {_IMAGES!r}; cut it or remove the row"
            yield unusable(name, problem, is_row=True)

    def _study(self, recording: _Recording) -> RawStudy:
        rows = self._rows.get(recording.filename, [])
        images = tuple(self._image(number, path) for number, path in recording.frames)
        problem = self._find_problem(recording, rows)
        if problem:
            return RawStudy(
                ref=recording.ref,
                patient_ref=recording.ref,
                images=images,
                turns=(),
                problem=problem,
            )
        row = rows[0]
        return RawStudy(
            ref=recording.ref,
            patient_ref=row[_PATIENT].removesuffix(".0"),  # pandas writes integers so
            images=images,
            turns=(_turn(recording),),
            labels={
                "class": recording.folder,
                SITE_LABEL: "肺",
                "probe": row["Probe"],
                "recording": recording.kind,
                **({"sex": _SEX[row["Gender"]]} if row["Gender"] in _SEX else {}),
                **({"age": row["Age"]} if row["Age"].isdecimal() else {}),
            },
            provenance=f"POCOVID {recording.ref}",
            split=(self._folds or {}).get(recording.ref.partition("/")[2], ""),
        )

    def _image(self, number: int, path: Path) -> RawImage:
        name = str(path.relative_to(self._folder))
        return replace(load_image(self._folder, name), frame_index=number)

    def _find_problem(self, recording: _Recording, rows: Sequence[Row]) -> str:
        name = recording.filename
        if recording.folder not in CLASSES:
            return f"unknown_value: folder {recording.folder!r}; known are {', '.join(CLASSES)}"
        if not rows:
            return f"no_row: {self._table.name} has no row with Filename {name!r}; add one"
        if len(rows) > 1:
            return f"ambiguous_row: {len(rows)} rows have Filename {name!r}; rename all but one"
        if self._claims[name] > 1:
            return f"ambiguous_row: {self._claims[name]} recordings are called {name!r}, one row is"
        row = rows[0]
        expected = {"Label": CLASSES[recording.folder][0], "Type": recording.kind}
        for column, value in expected.items():
            if row[column].lower() != value.lower():
                return (
                    f"conflicting_rows: the files of {name!r} say {column} {value!r}, its row "
                    f"{row[column]!r}; correct one"
                )
        if not row[_PATIENT]:
            return f"no_patient: the row of {name!r} names no patient; splits are made by patient"
        if self._folds is not None and recording.ref.partition("/")[2] not in self._folds:
            return f"no_split: {_FOLDS} does not name {recording.ref!r}; leave --split out"
        return ""


def _read_fold(path: Path, split: str) -> dict[str, str]:
    """Return the split of each recording, by its file's name, with one fold as the test.

    Raises:
        ConfigError: the split is none of the authors'.
        DataError: the file is missing, or no such file.
    """
    kind, _, fold = split.partition(":")
    if kind != "published":
        raise ConfigError(
            f"--split {split!r} is none of this set; give published or published:FOLD"
        )
    folds = read_json(path)
    try:
        chosen = folds[fold or "0"]
        found = dict.fromkeys(chosen["train"][0], SPLITS[0])
        return found | dict.fromkeys(chosen["test"][0], SPLITS[-1])
    except KeyError:
        known = ", ".join(folds) if isinstance(folds, dict) else "none"
        raise ConfigError(
            f"--split {split!r}: {path.name} has no such fold; it has {known}"
        ) from None
    except (TypeError, IndexError):
        raise DataError(
            f"file {str(path)!r} holds no folds; expected is the authors' {_FOLDS}"
        ) from None


def _group(files: Sequence[Path]) -> list[_Recording]:
    """Bring the frames of each video together, in their order."""
    recordings: dict[str, _Recording] = {}
    for path in files:
        folder, frame = path.parent.name, _FRAME.fullmatch(path.stem)
        file, number = (frame["file"], int(frame["number"])) if frame else (path.name, 0)
        ref = f"{folder}/{file}"
        recording = recordings.setdefault(
            ref,
            _Recording(
                ref=ref,
                folder=folder,
                filename=Path(file).stem,
                kind="video" if frame else "image",
            ),
        )
        recording.frames.append((number, path))
    for recording in recordings.values():
        recording.frames.sort()
    return list(recordings.values())


def _turn(recording: _Recording) -> Turn:
    options = tuple(chinese for _, chinese in CLASSES.values())
    return Turn(
        question="这次肺部超声提示新冠肺炎、细菌性肺炎还是正常？",
        answer=CLASSES[recording.folder][1],
        task=Task.CLOSED,
        options=options,
        topic="class",
    )
