"""SLAKE: questions and answers on 642 CT, MRI and X-ray images, in Chinese and English.

Liu, Zhan, Xu, Ma, Yang, Wu: "SLAKE: A semantically-labeled knowledge-enhanced dataset for medical
visual question answering", ISBI 2021, arXiv 2102.09542. It shows no ultrasound: it is here because
its form, open and closed questions on several topics, is that of the field's benchmarks.

Expected: `train.json`, `validate.json` or `test.json`, or the folder that holds some of them.
Images lie below a folder that is given apart (`imgs/` as published); without it, studies are text
alone.

All questions on an image in one language are a study, and the image is the patient: the set names
none. A closed question keeps its published answer. Yes and no are worded to fit the question (包含,
不存在), and the options are that word and its opposite (`PAIRS`). Other closed questions word their
choices themselves (脾脏和肝脏哪个更大?), and options stand nowhere in the file: they become open.
`content_type` is the topic.

`published` takes the three files for the three splits, as the authors do. No image is in two of
them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sonoray.errors import ConfigError, DataError
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.ingest.sources.inputs import (
    Entry,
    Item,
    check_split,
    digest_files,
    find_files,
    load_image,
    read_items,
    unusable,
)
from sonoray.study.contract import SPLITS, Task, Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawStudy

LANGUAGES = ("zh", "en")
PAIRS = (
    ("Yes", "No"),
    ("包含", "不包含"),
    ("可以", "不可以"),
    ("存在", "不存在"),
    ("属于", "不属于"),
    ("有", "没有"),
    ("正常", "不正常"),
    ("是", "否"),
    ("是", "不是"),
    ("是的", "不是"),
)
"""Words for yes and no as the questions have them; of two pairs with one word the later counts."""
SITES = {
    "Abdomen": "腹部",
    "Brain": "脑",
    "Brain_Face": "面部",
    "Brain_Tissue": "脑组织",
    "Chest_heart": "心脏",
    "Chest_lung": "肺",
    "Chest_mediastinal": "纵隔",
    "Lung": "肺",
    "Neck": "颈部",
    "Pelvic Cavity": "盆腔",
}
"""Every location of the set, in Chinese."""

_FILES = ("train.json", "validate.json", "test.json")
_SPLIT_OF = dict(zip(_FILES, SPLITS, strict=True))
_OPTIONS = {word: pair for pair in PAIRS for word in pair}


class _Question(Item):
    """One item of a file."""

    img_name: str
    question: str
    answer: str
    q_lang: Literal["zh", "en"]
    answer_type: Literal["OPEN", "CLOSED"]
    content_type: str
    location: str
    modality: str


class SlakeSource:
    """Reads the question files."""

    set_name = "slake"
    public = True

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        language: str | None = None,
        *,
        name: str = set_name,
        split: str | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Read the questions; no image is opened.

        Args:
            path: one of the files, or the folder that holds some of them.
            images: folder of the images; None leaves them out.
            language: `zh` or `en`; None takes both.
            name: the dataset's name.
            split: `published` takes the authors' files for the splits.
            limits: what is accepted as an image.

        Raises:
            ConfigError: the language or the split is unknown.
            DataError: there is no such file, or it is no list of questions.
        """
        if language not in (None, *LANGUAGES):
            raise ConfigError(
                f"language {language!r} is unknown; use one of {', '.join(LANGUAGES)}"
            )
        check_split(split)
        self.name = name
        self._split = split
        self._images = images
        self._limits = limits
        self._languages = LANGUAGES if language is None else (language,)
        found = [path] if path.is_file() else [path / name for name in _FILES]
        self._paths = [file for file in found if file.is_file()]
        if not self._paths:
            raise DataError(f"no question file in {str(path)!r}; expected is {', '.join(_FILES)}")
        self._groups: dict[tuple[str, str], list[_Question]] = {}
        self._files: dict[tuple[str, str], set[str]] = {}
        self._malformed: list[Entry[_Question]] = []
        read = ((each, entry) for each in self._paths for entry in read_items(each, _Question))
        for file, entry in read:
            item = entry.value
            if item is None:
                self._malformed.append(entry)
            elif item.q_lang in self._languages:
                group = item.img_name, item.q_lang
                self._groups.setdefault(group, []).append(item)
                self._files.setdefault(group, set()).add(file.name)

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._groups) + len(self._malformed)

    def config(self) -> dict[str, Any]:
        """The languages, whether images are read, and the split that was asked for."""
        config = {"languages": list(self._languages), "images": self._images is not None}
        return config if self._split is None else {**config, "split": self._split}

    def input_digest(self) -> str:
        """Sha256 (hex) over the question files and the images that they name."""
        files = {path.name: path for path in self._paths}
        names = [name for name, _ in self._groups]
        images = {} if self._images is None else find_files(self._images, names)
        return digest_files(files, (images, self._limits.max_bytes))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per image and language in file order, then the malformed questions."""
        for (image, language), questions in self._groups.items():
            yield self._study(image, language, questions)
        for entry in self._malformed:
            yield unusable(entry.ref, entry.problem)

    def _study(self, image: str, language: str, questions: list[_Question]) -> RawStudy:
        first = questions[0]
        problem = ""
        if first.location not in SITES:
            problem = f"unknown_value: location {first.location!r}; known are {', '.join(SITES)}"
        elif any((q.location, q.modality) != (first.location, first.modality) for q in questions):
            problem = f"conflicting_rows: the questions on {image} disagree on location or modality"
        files = self._files[image, language]
        if self._split and not problem and (len(files) > 1 or not files <= _SPLIT_OF.keys()):
            problem = (
                f"no_split: the questions on {image} are in {', '.join(sorted(files))}; a "
                f"published split is one of {', '.join(_SPLIT_OF)}"
            )
        site = SITES.get(first.location, "") if language == "zh" else first.location
        return RawStudy(
            ref=f"{image}:{language}",
            patient_ref=image,
            images=() if self._images is None else (load_image(self._images, image),),
            turns=tuple(map(_turn, questions)),
            labels={
                "language": language,
                "location": first.location,
                "modality": first.modality,
                SITE_LABEL: site,
            },
            provenance=f"SLAKE {image}",
            split=_SPLIT_OF[min(files)] if self._split and not problem else "",
            problem=problem,
        )


def _turn(item: _Question) -> Turn:
    answer = item.answer.strip()
    options = _OPTIONS.get(answer, ()) if item.answer_type == "CLOSED" else ()
    return Turn(
        question=item.question.strip(),
        answer=answer,
        task=Task.CLOSED if options else Task.OPEN,
        options=options,
        topic=item.content_type.strip().lower(),
    )
