"""Texts that contradict a label: a table of terms for each value of a known label.

A text *names* a value where one of its terms stands in it. It contradicts the label where it names
another value and not the label's own; a text that names both, or none, says nothing. Where several
terms fit at one place the longest counts, so that 良恶性 (benign or malignant, undecided) is not
read as 恶性; a term may name several values, or none.

Terms are Chinese and English; an English one begins a word. Of an English report's words those of
the phantom and their like are known, and no more.

Negation is simple: a cue (未见, 无, 排除, no, without ...) reaches to the end of its clause. A
negated term names nothing, but for labels of presence the value `absent`: 未见钙化 names `0`. In
the caption of one image it names nothing of the whole study: a view without the lesion is no
contradiction.

A label is checked only where all of its values in the dataset have terms: BUS-BRA's `side` is
the half of a split screen, which its value `single` gives away, and is left alone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sonoray.ingest.published.busbra import HISTOLOGY
from sonoray.metrics.tokens import fold
from sonoray.phantom.chinese import CHINESE
from sonoray.phantom.english import ENGLISH
from sonoray.study.contract import Study

CAPTION = "caption"
"""Image label that is a text."""

_CLAUSE = re.compile(r"[,;:。!?\n]|但|\.(?!\d)")
"""Ends of clauses, after `fold`, which makes full-width signs ASCII."""
_NEGATION = re.compile(
    r"未见|未探及|未发现|未及|未显示|未提示|没有|无(?!回声)|否认|排除|除外|不考虑|不支持|不符合|不像|非(?!常)"
)
_ENGLISH_NEGATION = re.compile(r"\b(?:no|not|without|never|denies)\b")


@dataclass(frozen=True, kw_only=True)
class LabelTerms:
    """The terms of one label."""

    terms: Mapping[str, tuple[str, ...]]
    """By value: its terms, as `fold` writes them. The value "" has terms that name nothing."""
    absent: str = ""
    """The value that a negated term names."""

    def knows(self, value: str) -> bool:
        """Whether the value has terms."""
        return value == self.absent or (value != "" and value in self.terms)

    def named(self, text: str, *, negation_names: bool = True) -> dict[str, set[str]]:
        """Return the values that the text names, each with the terms that name it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for clause in _CLAUSE.split(fold(text)):
            places = [place for place, letter in enumerate(clause) if not letter.isspace()]
            joined = "".join(clause.split())
            for match in self._pattern.finditer(joined):
                term, before = match.group(), clause[: places[match.start()]]
                if term[0].isascii() and before[-1:].isascii() and before[-1:].isalpha():
                    continue  # within an English word
                if not _NEGATION.search(joined[: match.start()]) and not _ENGLISH_NEGATION.search(
                    before
                ):
                    for value in self._values[term]:
                        found[value].add(term)
                elif self._values[term] and self.absent and negation_names:
                    found[self.absent].add(f"no {term}")
        return dict(found)

    @cached_property
    def _values(self) -> dict[str, set[str]]:
        values: dict[str, set[str]] = {}
        for value, terms in self.terms.items():
            for term in terms:
                values.setdefault(term, set()).update({value} - {""})
        return values

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._values, key=len, reverse=True))))


def _both(**names: tuple[str, str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Give the English and the Chinese name of a value the same terms, the English among them."""
    return {name: (*terms, en) for en, zh, terms in names.values() for name in (en, zh)}


_ORGANS = LabelTerms(
    terms=_both(
        thyroid=("thyroid", "甲状腺", ("甲状腺",)),
        breast=("breast", "乳腺", ("乳腺", "乳房", "左乳", "右乳", "双乳")),
        liver=("liver", "肝脏", ("肝",)),
        gallbladder=("gallbladder", "胆囊", ("胆囊",)),
        pancreas=("pancreas", "胰腺", ("胰",)),
        spleen=("spleen", "脾脏", ("脾",)),
        kidney=("kidney", "肾脏", ("肾",)),
        bladder=("bladder", "膀胱", ("膀胱",)),
        prostate=("prostate", "前列腺", ("前列腺",)),
        uterus=("uterus", "子宫", ("子宫",)),
        ovary=("ovary", "卵巢", ("卵巢",)),
    )
    | {"": ("肾上腺",)}
)
_FINDING = LabelTerms(
    terms={
        "1": (
            *("病灶", "结节", "占位", "肿块", "包块", "肿物", "囊肿"),
            *("lesion", "nodule", "mass", "cyst"),
        )
    },
    absent="0",
)
_SIDES = ("侧", "叶", "乳", "肾", "颈", "肝")
_GRADES = ("0", "1", "2", "3", "4", "4a", "4b", "4c", "5", "6")

LABEL_TERMS: Mapping[str, LabelTerms] = {
    "pathology": LabelTerms(
        terms=_both(
            benign=("benign", "良性", ("良性", "良恶性", "良、恶性")),
            malignant=("malignant", "恶性", ("恶性", "癌", "良恶性", "良、恶性")),
        )
    ),
    "histology": LabelTerms(
        terms={value: (term,) for value, term in HISTOLOGY.items()}
        # of the breast around the lesion, or of the axilla
        | {"": ("乳腺增生", "小叶增生", "腋下淋巴结", "腋窝淋巴结", "肿大淋巴结")}
    ),
    "birads": LabelTerms(
        terms={
            grade: tuple(
                text
                for other in _GRADES  # 4 covers 4a, and the other way round
                if grade.startswith(other) or other.startswith(grade)
                for text in (f"bi-rads{other}", f"birads{other}", f"{other}类")
            )
            for grade in _GRADES
        }
    ),
    "side": LabelTerms(
        terms=_both(
            left=("left", "左侧", (*(f"左{part}" for part in _SIDES), "双侧", "双乳", "两侧")),
            right=("right", "右侧", (*(f"右{part}" for part in _SIDES), "双侧", "双乳", "两侧")),
        )
    ),
    "organ": _ORGANS,
    "site": _ORGANS,
    "kind": LabelTerms(
        terms={
            kind.value: (term, ENGLISH.kinds[kind].replace(" ", ""))
            for kind, term in CHINESE.kinds.items()
        }
    ),
    "echogenicity": LabelTerms(
        terms=_both(
            anechoic=("anechoic", "无回声", ("无回声",)),
            hypoechoic=("hypoechoic", "低回声", ("低回声", "弱回声")),
            isoechoic=("isoechoic", "等回声", ("等回声",)),
            hyperechoic=("hyperechoic", "高回声", ("高回声", "强回声")),
        )
        | {"": ("无回声增强", "无回声衰减", "无回声异常")}
    ),
    "margin": LabelTerms(
        terms={
            "smooth": ("光滑", "光整", "smooth"),
            "spiculated": ("毛刺", "spiculated"),
            "": ("包膜光滑", "壁光滑", "内膜光滑", "不光滑", "欠光滑", "不光整", "欠光整"),
        }
    ),
    "calcification": LabelTerms(terms={"1": ("钙化", "calcification", "calcified")}, absent="0"),
    "posterior": LabelTerms(
        terms={
            "shadow": ("声影", "后方回声衰减", "后方衰减", "shadowing"),
            "enhancement": ("后方回声增强", "后方增强", "posteriorenhancement"),
        },
        absent="none",
    ),
    "finding": _FINDING,
    "shows_finding": _FINDING,
}
"""The labels that can be checked."""


def affirmed_terms(text: str) -> set[str]:
    """The terms of all labels that a text affirms, as `fold` writes them."""
    found: set[str] = set()
    for table in LABEL_TERMS.values():
        found = found.union(*table.named(text, negation_names=False).values())
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """A text that names another value than the label has."""

    study_id: str
    label: str
    value: str
    """What the label says."""
    terms: tuple[str, ...]
    """The terms of other values in the text; `no TERM` where it is negated."""
    place: str
    """`answer: TOPIC`, or `caption` of an image."""
    text: str = field(repr=False)
    """A patient's."""


def contradictions(study: Study) -> list[Contradiction]:
    """Compare every answer with the study's labels, and every caption with its image's too."""
    found = []
    for turn in study.turns:
        place = f"answer: {turn.topic}"
        found += _compare(study.study_id, turn.answer, study.labels, place)
    for image in study.images:
        text = image.labels.get(CAPTION, "")
        of_study = {name: v for name, v in study.labels.items() if name not in image.labels}
        found += _compare(study.study_id, text, image.labels, CAPTION)
        found += _compare(study.study_id, text, of_study, CAPTION, negation_names=False)
    return found


def _compare(
    study_id: str, text: str, labels: Mapping[str, str], place: str, *, negation_names: bool = True
) -> list[Contradiction]:
    found = []
    for label, value in labels.items():
        table = LABEL_TERMS.get(label)
        if table is None or not table.knows(value):
            continue
        named = table.named(text, negation_names=negation_names)
        if named and value not in named:
            found.append(
                Contradiction(
                    study_id=study_id,
                    label=label,
                    value=value,
                    terms=tuple(sorted(set().union(*named.values()))),
                    place=place,
                    text=text,
                )
            )
    return found


@dataclass(kw_only=True)
class TermCheck:
    """Collects contradictions over a dataset, study by study."""

    max_listed: int
    """Most contradictions of a label that are kept as rows; all are counted."""
    num_checked: Counter[str] = field(default_factory=Counter)
    """By label: studies that have it."""
    num_found: Counter[str] = field(default_factory=Counter)
    """By label: studies with a contradiction."""
    _unknown: dict[str, set[str]] = field(default_factory=dict)
    _listed: dict[str, list[Contradiction]] = field(default_factory=dict)

    def add(self, study: Study) -> None:
        """Check one study."""
        labels = [study.labels, *(image.labels for image in study.images)]
        pairs = {(name, value) for each in labels for name, value in each.items()}
        self.num_checked.update({name for name, _ in pairs if name in LABEL_TERMS})
        for name, value in pairs:
            if name in LABEL_TERMS and not LABEL_TERMS[name].knows(value):
                self._unknown.setdefault(name, set()).add(value)
        found = contradictions(study)
        self.num_found.update({each.label for each in found})
        for each in found:
            rows = self._listed.setdefault(each.label, [])
            if len(rows) < self.max_listed:
                rows.append(each)

    @property
    def checked(self) -> dict[str, int]:
        """By label that could be checked: studies that have it."""
        return {k: n for k, n in sorted(self.num_checked.items()) if k not in self._unknown}

    @property
    def unchecked(self) -> dict[str, list[str]]:
        """By label that has terms but was left alone: the values that have none."""
        return {name: sorted(values) for name, values in sorted(self._unknown.items())}

    @property
    def listed(self) -> Iterable[Contradiction]:
        """The contradictions of the labels that could be checked."""
        return (each for name in self.checked for each in self._listed.get(name, ()))
