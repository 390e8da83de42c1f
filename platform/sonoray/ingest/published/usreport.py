"""The Chinese ultrasound report dataset: reports on breast, thyroid and liver, two images each.

Li, Su, Zhao, Lv, Wang, Navab, Hu, Jiang: "Ultrasound Report Generation with Cross-Modality Feature
Alignment via Unsupervised Guidance" (KMVE), arXiv 2406.00644. Its page counts 3,521 patients with
breast, 2,474 with thyroid and 1,395 with liver reports; copies of the texts without the images and
without the test split go round.

Expected: a folder of JSON files, or one of them, each `{"train": [...], "val": [...]}` of items
with `uid`, `finding`, `image_path`, `labels` and `split`. The organ stands in the file's name and
nowhere else: `Mammary_trainval.json`, or `new_Mammary2.json` as the authors call theirs. Images lie
in a folder that is given apart, directly or one folder per organ as the authors have them
(`Mammary_report/`); without it, studies are text alone.

An item is a study and its uid the patient: no uid occurs twice, and the authors count patients. The
report is the finding as written; measures and places were replaced by `_2DS_`, `_3DS_`, `_SCM_`,
`_SMM_`, `_Loc_` and `_LocR_` before publication and stay so. `labels` is the cluster of the text
that KMVE's distiller found: it follows from the answer, so it is a label and never a question.

`published` takes the item's own split, `train`, `val` or `test`; the copies without the test split
then have none.

Texts repeat a lot: judge a model beside the constant answer.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sonoray.errors import DataError
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import (
    Entry,
    Item,
    check_split,
    digest_files,
    find_files,
    load_image,
    parse_items,
    read_json,
    unusable,
)
from sonoray.study.contract import SPLITS, Task, Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawStudy

QUESTION = "请写出这次超声检查的报告。"

ORGANS = {
    "Mammary": ("breast", "乳腺"),
    "Thyroid": ("thyroid", "甲状腺"),
    "Liver": ("liver", "肝脏"),
}
"""The organ and its Chinese name, by the word in the file's name."""

_SPLIT_OF = dict(zip(("train", "val", "test"), SPLITS, strict=True))
_EXAMPLE = "Mammary_trainval.json"
_NAME = re.compile(r"(?:new_)?(Mammary|Thyroid|Liver)(?:2|_[a-z]+)?\.json")


class _Report(Item):
    """One item of a file."""

    uid: int
    finding: str
    image_path: list[str]
    labels: int
    split: Literal["train", "val", "test"]


class UsReportSource:
    """Reads the report files."""

    set_name = "usreport"
    public = True

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        *,
        name: str = set_name,
        split: str | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Read the reports; no image is opened.

        Args:
            path: folder of the JSON files, or one of them.
            images: folder of the images; None leaves them out.
            name: the dataset's name.
            split: `published` takes the split of each report.
            limits: what is accepted as an image.

        Raises:
            ConfigError: there is no such split.
            DataError: there is no such file, or none can be read.
        """
        check_split(split)
        self.name = name
        self._split = split
        self._images = images
        self._limits = limits
        self._paths = [path] if path.is_file() else sorted(path.glob("*.json"))
        self._entries: dict[Path, list[Entry[_Report]]] = {}
        self._unreadable: dict[Path, str] = {}
        for file in self._paths:
            try:
                self._entries[file] = _read_reports(file)
            except DataError as error:
                self._unreadable[file] = str(error)
        if not self._entries:
            nothing = f"no report file in {str(path)!r}; give the folder of {_EXAMPLE}"
            raise DataError(next(iter(self._unreadable.values()), nothing))

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return sum(map(len, self._entries.values())) + len(self._unreadable)

    def config(self) -> dict[str, Any]:
        """Whether images are read, and the split that was asked for."""
        config: dict[str, Any] = {"images": self._images is not None}
        return config if self._split is None else {**config, "split": self._split}

    def input_digest(self) -> str:
        """Sha256 (hex) over the report files and the images that they name."""
        files = {path.name: path for path in self._paths}
        images: dict[str, Path] = {}
        for path, entries in self._entries.items():
            folder = self._image_folder(path)
            if folder is not None:
                names = [
                    name for entry in entries if entry.value for name in entry.value.image_path
                ]
                found = find_files(folder, names)
                images |= {f"{path.stem}/{name}": file for name, file in found.items()}
        return digest_files(files, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per item in file order, then what stands for unreadable files."""
        for path, entries in self._entries.items():
            for entry in entries:
                if entry.value is None:
                    yield unusable(entry.ref, entry.problem)
                else:
                    yield self._study(path, entry.value)
        for path, problem in self._unreadable.items():
            yield unusable(path.name, f"unreadable_file: {problem}")

    def _study(self, path: Path, report: _Report) -> RawStudy:
        organ, site = ORGANS[_word_of(path)]
        folder = self._image_folder(path)
        return RawStudy(
            ref=f"{organ}/{report.uid}",
            patient_ref=str(report.uid),
            images=()
            if folder is None
            else tuple(load_image(folder, name) for name in report.image_path),
            turns=(
                Turn(question=QUESTION, answer=report.finding, task=Task.REPORT, topic="report"),
            ),
            labels={
                "organ": organ,
                SITE_LABEL: site,
                "cluster": str(report.labels),
                "published_split": report.split,
            },
            provenance=f"KMVE report {report.uid}",
            split=_SPLIT_OF[report.split] if self._split else "",
        )

    def _image_folder(self, path: Path) -> Path | None:
        """Where the images of a file's reports lie."""
        if self._images is None:
            return None
        own = self._images / f"{_word_of(path)}_report"
        return own if own.is_dir() else self._images


def _read_reports(path: Path) -> list[Entry[_Report]]:
    """Read the items of every split of a file.

    Raises:
        DataError: it is unreadable, or its name or its form is not that of a report file.
    """
    if not _word_of(path):
        raise DataError(
            f"file {str(path)!r} names no organ; call it like {_EXAMPLE} "
            f"(known are {', '.join(ORGANS)})"
        )
    splits = read_json(path)
    if not isinstance(splits, dict) or not all(isinstance(v, list) for v in splits.values()):
        raise DataError(f"file {str(path)!r} is no report file; expected is {{split: [items]}}")
    entries: list[Entry[_Report]] = []
    for split, values in splits.items():
        for entry in parse_items(values, _Report, f"{path.name}:{split}"):
            if entry.value and entry.value.split != split:
                problem = f"conflicting_rows: {entry.ref} says that it is of another split"
                entry = Entry(ref=entry.ref, value=None, problem=problem)
            entries.append(entry)
    return entries


def _word_of(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match[1] if match else ""
