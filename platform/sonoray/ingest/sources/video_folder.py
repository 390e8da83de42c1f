"""A folder of videos: cine loops as a scanner or a phone exports them.

`.mp4`, `.avi`, `.mha`, `.nii.gz` and the other endings of `sonoray.images.loops`, at any depth.
Every file is a study, or all files of one folder are (`video.study`). The `.pgm` files of a folder
are the frames of one loop, which is called as the folder is. The patient is the folder below the
given one that the file lies in, `PATIENT/loop.mp4` or `PATIENT/2024-05-01/loop.mp4`, or what the
table `patients.csv` in the given folder says: columns `file` (path below the folder) and `patient`.
For the videos that it names the table counts, an empty patient too; for all others the folder. A
video without a patient is quarantined, since splits are made by patient.

Videos carry no text here, so the studies are images alone. To train on them, name them in a table
beside texts (`sonoray.ingest.sources.table`).

Frames are whole pictures; text that the scanner drew into them, names too, is left to
`sonoray.privacy.deidentify`.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.files.folders import list_files
from sonoray.files.spreadsheet import describe_damage, find_damage
from sonoray.images.loops import SERIES, SUFFIXES, list_parts, suffix_of
from sonoray.images.sandbox import GuardedPool
from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.cine import CineUnit, decoding, digested, guard_of_videos
from sonoray.ingest.sources.inputs import digest_files, read_csv, unusable
from sonoray.ingest.units import Guard, Listed, Unit, read_source
from sonoray.study.raw import RawImage, RawStudy

TABLE = "patients.csv"


class VideoSource:
    """Reads a folder of videos."""

    public = False

    def __init__(self, path: Path, name: str = "video", config: VideoConfig | None = None) -> None:
        """Read the file names and the table; no video is opened.

        Args:
            path: the folder.
            name: the dataset's name.
            config: which frames are taken, and what is accepted.

        Raises:
            DataError: it is no folder, holds no video, or its table cannot be read.
        """
        self.name = name
        self._folder = path
        self._config = VideoConfig() if config is None else config
        if not path.is_dir():
            raise DataError(f"no folder {str(path)!r}; give the one that holds the videos")
        self._others: dict[str, str] = {}
        self._videos, self._series = self._list_videos()
        if not self._videos:
            unseen = sum(problem.startswith("unreadable") for problem in self._others.values())
            raise DataError(
                f"folder {str(path)!r} holds no video; expected are {', '.join(SUFFIXES)}"
                + (f"; {unseen} files or folders in it cannot be read" if unseen else "")
            )
        self._patients, self._problems = self._read_patients()
        self._studies: dict[str, list[str]] = {}
        for file in self._videos:
            whole = self._config.study == "folder"
            self._studies.setdefault(self._folder_of(file) if whole else file, []).append(file)

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._studies) + len(self._others) + len(self._problems)

    def config(self) -> dict[str, Any]:
        """What is taken and accepted, and what decodes."""
        return decoding(self._config)

    def input_digest(self) -> str:
        """Sha256 (hex) over the videos and the table, and over what else there is."""
        table = self._folder / TABLE
        tables = {TABLE: table} if table.is_file() else {}
        files = digest_files(tables, (digested(self._videos), self._config.max_bytes))
        return content_hash({"files": files, "others": self._others})

    @property
    def guard(self) -> Guard:
        """What the processes that decode videos may take."""
        return guard_of_videos(self._config)

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Yield one unit per file or folder in name order, then what is no video."""
        del pool
        for study, files in self._studies.items():
            videos = {file: self._videos[file] for file in files}
            yield CineUnit(listed=self._study(study), videos=videos, config=self._config)
        for ref, problem in self._others.items():
            yield Listed(study=unusable(ref, problem))
        for ref, problem in self._problems.items():
            yield Listed(study=unusable(ref, problem, is_row=True))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per file or folder in name order, then what is no video."""
        return read_source(self)

    def _list_videos(self) -> tuple[dict[str, tuple[Path, ...]], set[str]]:
        """Return the files of each video, and which videos are a folder's series.

        What is neither goes to `_others`, with its problem.
        """
        videos: dict[str, tuple[Path, ...]] = {}
        unknown: dict[Path, str] = {}
        series = set[str]()
        for found in sorted(list_files(self._folder), key=lambda each: each.path):
            suffix = suffix_of(found.path.name)
            if found.problem:
                self._others[found.ref] = found.problem
            elif suffix in SERIES:
                folder = PurePosixPath(found.ref).parent.as_posix()
                videos[folder] = (*videos.get(folder, ()), found.path)
                series.add(folder)
            elif suffix:
                videos[found.ref] = list_parts(found.path)
            elif found.ref != TABLE:
                unknown[found.path] = found.ref
        for folder in series:
            videos[folder] = tuple(sorted(videos[folder], key=_natural))
        parts = {part for paths in videos.values() for part in paths}
        known = ", ".join(SUFFIXES)
        for path, ref in unknown.items():
            if path not in parts:  # not the data of a .mhd
                self._others[ref] = f"unknown_file: {ref!r} is none of {known}; convert it"
        return videos, series

    def _folder_of(self, file: str) -> str:
        return file if file in self._series else PurePosixPath(file).parent.as_posix()

    def _study(self, study: str) -> RawStudy:
        files = self._studies[study]
        patients = {self._patients.get(file, "") for file in files}
        problem = ""
        if "" in patients:
            problem = (
                f"no_patient: no patient is known of {study!r}; put it into a folder of the "
                f"patient or name it in {TABLE}"
            )
        elif len(patients) > 1:
            problem = f"mixed_patients: the videos of {study!r} are of {len(patients)} patients"
        return RawStudy(
            ref=study,
            patient_ref=study if problem else patients.pop(),
            images=tuple(RawImage(ref=file, data=self._videos[file][0]) for file in files),
            turns=(),
            provenance=f"{self.name}, frames of video, {self._config.sampling}",
            problem=problem,
        )

    def _read_patients(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the patient of each file, and problems of the table by row."""
        table = self._folder / TABLE
        folders = {file: PurePosixPath(self._folder_of(file)).parts for file in self._videos}
        by_folder = {file: parts[0] for file, parts in folders.items() if parts}
        if not table.is_file():
            return by_folder, {}
        patients: dict[str, str] = {}
        problems: dict[str, str] = {}
        entries = read_csv(table, ("file", "patient"))
        damage = find_damage((entry.value or {}).get("patient", "") for entry in entries)
        for entry in entries:
            row = entry.value or {}
            file = PurePosixPath(row.get("file", "").replace("\\", "/")).as_posix()
            patient = row.get("patient", "")
            if entry.problem:
                problems[entry.ref] = entry.problem
            elif file not in self._videos:
                problems[entry.ref] = f"missing_file: {TABLE} names {file!r}, which is not there"
            elif patient in damage:
                where = f"line {entry.ref.rpartition(':')[2]}, column patient"
                problems[entry.ref] = describe_damage(damage[patient], where)
                patients[file] = ""  # not the folder's either
            elif patients.setdefault(file, patient) != patient:
                problems[entry.ref] = f"conflicting_rows: {TABLE} gives {file!r} two patients"
        return by_folder | patients, problems


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that puts `2.pgm` before `10.pgm`."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
