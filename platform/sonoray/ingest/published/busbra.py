"""BUS-BRA: 1,875 breast ultrasound images of 1,064 women, biopsy-proven, with lesion outlines.

Gomez-Flores, Gregorio-Calas, Coelho de Albuquerque Pereira: "BUS-BRA: A breast ultrasound dataset
for assessing computer-aided diagnosis systems", Medical Physics 51 (2024). Expected layout, as
distributed: `bus_data.csv`, `Images/bus_0001-l.png`, `Masks/mask_0001-l.png`; folder names in
lower case, JPEG images and masks named like their image are read as well.

One `Case` is one patient and one study; its rows are the views, 1,875 in 1,064 cases. Chinese
questions and answers are made from the columns alone:

- closed: pathology, BI-RADS category;
- open: histology;
- report: one sentence from all columns.

`Side` is **not** the side of the body. `left` and `right` are the two halves of one split screen
(the scanner's annotation, burned into the left half, often names the other breast) and `single` is
an undivided screen. It stays a label and a word of the report; asking for it would teach nothing.

The pictures carry what the scanner drew into them: calipers, the breast's side and quadrant in
Portuguese, sometimes an age. They are used as published; a model may lean on the calipers.

Rows of one case must agree in pathology, histology and device, which they do throughout the
published table; a case whose rows differ is quarantined, as is one with an unknown value. BI-RADS
is judged by view: of case 856 one view is 4 and one is 5. The most suspicious view decides for the
case, as the lexicon has it; each view keeps its own category in its caption and as a label, and the
case's label `birads_views` names all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import Row, digest_files, read_csv
from sonoray.study.contract import Task, Turn
from sonoray.study.raw import RawImage, RawStudy

_TABLE = "bus_data.csv"
_COLUMNS = ("ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side")
_CASE_COLUMNS = ("Histology", "Pathology", "Device")

PATHOLOGY = {"benign": "良性", "malignant": "恶性"}
BIRADS = {grade: f"BI-RADS {grade}类" for grade in "2345"}
SIDE = {"left": "双幅显示的左幅", "right": "双幅显示的右幅", "single": "单幅显示"}
HISTOLOGY = {
    "adenocarcinoma": "腺癌",
    "cyst": "囊肿",
    "duct ectasia": "导管扩张",
    "ductal carcinoma in situ": "导管原位癌",
    "ductal hyperplasia": "导管增生",
    "fat necrosis": "脂肪坏死",
    "fibroadenoma": "纤维腺瘤",
    "fibrocystic changes": "纤维囊性改变",
    "fibrosis": "纤维化",
    "galactocele": "积乳囊肿",
    "hamartoma": "错构瘤",
    "hyperplasia": "增生",
    "intraductal papilloma": "导管内乳头状瘤",
    "invasive ductal carcinoma": "浸润性导管癌",
    "invasive lobular carcinoma": "浸润性小叶癌",
    "lipoma": "脂肪瘤",
    "lobular atrophy": "小叶萎缩",
    "lobular carcinoma in situ": "小叶原位癌",
    "lymph node": "淋巴结",
    "lymphoma": "淋巴瘤",
    "mastitis": "乳腺炎",
    "medullary carcinoma": "髓样癌",
    "metaplasia apocrina": "大汗腺化生",
    "mucinous carcinoma": "黏液癌",
    "papillary carcinoma": "乳头状癌",
    "phyllodes tumor": "叶状肿瘤",
    "proliferative lesions": "增生性病变",
    "sclerosing adenosis": "硬化性腺病",
}
"""Every histology of the table, in Chinese."""

_ADMISSIBLE: Mapping[str, Mapping[str, str]] = {
    "Pathology": PATHOLOGY,
    "BIRADS": BIRADS,
    "Histology": HISTOLOGY,
    "Side": SIDE,
}


class BusBraSource:
    """Reads a BUS-BRA folder."""

    set_name = "busbra"
    public = True

    def __init__(
        self, folder: Path, *, name: str = set_name, limits: ImageLimits = DEFAULT_LIMITS
    ) -> None:
        """Read the table and the file names; no image is opened.

        Args:
            folder: that of the table.
            name: the dataset's name.
            limits: what is accepted as an image.

        Raises:
            DataError: the folder, its table or a column is missing, or the table is no CSV.
        """
        self.name = name
        self._folder = folder
        self._limits = limits
        self._rows, self._malformed = _read_table(folder / _TABLE)
        self._images = _files_by_stem(folder, "images")
        self._masks = _files_by_stem(folder, "masks")

        listed = {row["ID"] for row in self._rows} | set(self._malformed.values())
        self._unlisted = [path for stem, path in self._images.items() if stem not in listed]

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        cases = {row["Case"] for row in self._rows}
        return len(cases) + len(self._malformed) + len(self._unlisted)

    def config(self) -> dict[str, Any]:
        """Nothing shapes the output but the files."""
        return {}

    def input_digest(self) -> str:
        """Sha256 (hex) over the names and contents of the table, images and masks."""
        paths = (*self._images.values(), *self._masks.values())
        images = {str(path.relative_to(self._folder)): path for path in paths}
        table = {_TABLE: self._folder / _TABLE}
        return digest_files(table, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per case in table order, then what has no usable row."""
        cases: dict[str, list[Row]] = {}
        for row in self._rows:
            cases.setdefault(row["Case"], []).append(row)
        for case, rows in cases.items():
            yield self._study(case, rows)
        for ref, image in self._malformed.items():
            yield _unusable(
                ref,
                f"malformed_row: {ref} ({image or 'no ID'}) has too few or too many fields, "
                "or an empty one; correct it",
            )
        for path in self._unlisted:
            yield _unusable(
                str(path.relative_to(self._folder)),
                f"no_row: {_TABLE} has no row with ID {path.stem!r}; add one",
            )

    def _study(self, case: str, rows: Sequence[Row]) -> RawStudy:
        ref = f"case-{case}"
        images = tuple(self._image(row) for row in rows)
        problem = _find_problem(case, rows)
        if problem:
            return RawStudy(ref=ref, patient_ref=case, images=images, turns=(), problem=problem)
        views = [row["BIRADS"] for row in rows]
        row = {**rows[0], "BIRADS": max(views)}
        differing: dict[str, str] = {}
        if len(set(views)) > 1:
            differing = {"birads_views": "+".join(views)}
            images = tuple(
                replace(image, labels={**image.labels, "birads": view})
                for image, view in zip(images, views, strict=True)
            )
        return RawStudy(
            ref=ref,
            patient_ref=case,
            images=images,
            turns=_turns(row, num_views=len(rows)),
            labels={
                "pathology": row["Pathology"],
                "birads": row["BIRADS"],
                "histology": row["Histology"],
                "side": "+".join(row["Side"] for row in rows),
                "device": row["Device"],
                **differing,
            },
            provenance=f"BUS-BRA case {case}",
        )

    def _image(self, row: Row) -> RawImage:
        path = self._images.get(row["ID"])
        if path is None:
            return RawImage(
                ref=row["ID"],
                data=b"",
                problem=f"missing_file: no image {row['ID']!r} below {self._folder.name!r}; "
                "copy it there or remove its row",
            )
        mask = self._masks.get(row["ID"]) or self._masks.get(row["ID"].replace("bus_", "mask_", 1))
        return RawImage(
            ref=str(path.relative_to(self._folder)),
            data=path,
            mask=mask,
            labels={"caption": _caption(row), "side": row["Side"]},
        )


def _read_table(path: Path) -> tuple[list[Row], dict[str, str]]:
    """Return the well-formed rows, and the others' IDs by where they stand."""
    if not path.is_file():
        raise DataError(f"no BUS-BRA table {str(path)!r}; give the folder that holds {_TABLE}")
    rows: list[Row] = []
    malformed: dict[str, str] = {}
    for entry in read_csv(path, _COLUMNS):
        row = entry.value or {}
        if entry.problem or not all(row[name] for name in _COLUMNS):
            malformed[entry.ref] = row.get("ID", "")
        else:
            rows.append(row)
    return rows, malformed


def _files_by_stem(folder: Path, name: str) -> dict[str, Path]:
    """Map stems to files of the subfolder `name`, whatever its case, in sorted order."""
    found = [path for path in folder.iterdir() if path.name.lower() == name and path.is_dir()]
    files = sorted(file for path in found for file in path.iterdir() if file.is_file())
    return {file.stem: file for file in files}


def _find_problem(case: str, rows: Sequence[Row]) -> str:
    for name in _CASE_COLUMNS:
        values = sorted({row[name] for row in rows})
        if len(values) > 1:
            return f"conflicting_rows: case {case} has {name} {' and '.join(values)}; correct one"
    for row in rows:
        for name, admissible in _ADMISSIBLE.items():
            if row[name] not in admissible:
                return (
                    f"unknown_value: {name} {row[name]!r} of {row['ID']}; "
                    f"known are {', '.join(admissible)}"
                )
    return ""


def _turns(row: Row, *, num_views: int) -> tuple[Turn, ...]:
    return (
        Turn(
            question="这个乳腺病灶是良性还是恶性？",
            answer=PATHOLOGY[row["Pathology"]],
            task=Task.CLOSED,
            options=tuple(PATHOLOGY.values()),
            topic="pathology",
        ),
        Turn(
            question="这个乳腺病灶的BI-RADS分类是2类、3类、4类还是5类？",
            answer=BIRADS[row["BIRADS"]],
            task=Task.CLOSED,
            options=tuple(BIRADS.values()),
            topic="birads",
        ),
        Turn(
            question="这个乳腺病灶的组织学诊断是什么？",
            answer=HISTOLOGY[row["Histology"]],
            topic="histology",
        ),
        Turn(
            question="请写出这次乳腺超声检查的报告。",
            answer=_report(row, num_views=num_views),
            task=Task.REPORT,
            topic="report",
        ),
    )


def _report(row: Row, *, num_views: int) -> str:
    display = "单幅显示" if num_views == 1 else f"双幅显示，共{num_views}个切面"
    return (
        f"乳腺超声，{display}，设备{row['Device']}。病灶{BIRADS[row['BIRADS']]}，"
        f"病理为{HISTOLOGY[row['Histology']]}，{PATHOLOGY[row['Pathology']]}。"
    )


def _caption(row: Row) -> str:
    """One sentence on one view; empty where a value is unknown (its study is quarantined)."""
    if any(row[name] not in admissible for name, admissible in _ADMISSIBLE.items()):
        return ""
    return (
        f"乳腺超声，{SIDE[row['Side']]}：{HISTOLOGY[row['Histology']]}，"
        f"{PATHOLOGY[row['Pathology']]}，{BIRADS[row['BIRADS']]}。"
    )


def _unusable(ref: str, problem: str) -> RawStudy:
    image = RawImage(ref=ref, data=b"", problem=problem)
    return RawStudy(ref=ref, patient_ref=ref, images=(image,), turns=(), problem=problem)
