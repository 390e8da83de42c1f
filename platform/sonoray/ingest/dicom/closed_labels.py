"""The only way out for what the attributes say: labels from an allow-list, in closed forms.

No name, identifier, date or free text leaves. A text counts where it is in a table (the body part,
and the site that it or the study's description names) or names a product (manufacturer, model); a
number is a number (age). PS3.15 would call this its Basic Application Level Confidentiality Profile
with the Retain Patient Characteristics Option, for sex and age.
"""

import re

from sonoray.ingest.dicom.header import Header, read_text
from sonoray.ingest.dicom.kinds import modality_label

_SITES = {
    "腹部": ("ABDOMEN", "ABDOMENPELVIS", "腹部", "上腹部"),
    "乳腺": ("BREAST", "MAMMA", "乳腺", "乳房"),
    "甲状腺": ("THYROID", "甲状腺"),
    "颈部": ("NECK", "颈部"),
    "颈动脉": ("CAROTID", "CAROTIDS", "颈动脉"),
    "肝脏": ("LIVER", "肝脏", "肝"),
    "胆囊": ("GALLBLADDER", "胆囊"),
    "胰腺": ("PANCREAS", "胰腺"),
    "脾脏": ("SPLEEN", "脾脏", "脾"),
    "肾脏": ("KIDNEY", "KIDNEYS", "肾脏", "双肾", "肾"),
    "膀胱": ("BLADDER", "URINARYBLADDER", "膀胱"),
    "前列腺": ("PROSTATE", "前列腺"),
    "睾丸": ("TESTIS", "SCROTUM", "睾丸", "阴囊"),
    "子宫": ("UTERUS", "子宫"),
    "卵巢": ("OVARY", "OVARIES", "卵巢"),
    "盆腔": ("PELVIS", "盆腔"),
    "心脏": ("HEART", "ECHO", "ECHOCARDIOGRAM", "心脏", "超声心动图"),
    "肺": ("LUNG", "CHEST", "肺", "胸部"),
    "下肢": ("LEG", "LEGS", "LOWEREXTREMITY", "LOWERLIMB", "下肢"),
    "上肢": ("ARM", "ARMS", "UPPEREXTREMITY", "UPPERLIMB", "上肢"),
    "肩关节": ("SHOULDER", "肩", "肩关节"),
    "膝关节": ("KNEE", "膝", "膝关节"),
    "眼": ("EYE", "EYES", "ORBIT", "眼", "眼部"),
    "头颅": ("HEAD", "BRAIN", "SKULL", "头颅"),
    "胎儿": ("FETUS", "OBSTETRIC", "OB", "胎儿", "产科"),
}
"""The site in Chinese, by the codes of PS3.16 CID 4 that sonographers use and their own words."""

_SITE_OF = {word: site for site, words in _SITES.items() for word in words}
_AFFIXES = re.compile(r"(彩色多普勒|彩超|彩色|多普勒|超声|检查|常规|B超)+")
_OLDEST = 90
"""Ages above 89 identify; they become 90."""


def read_labels(header: Header, charset: str) -> dict[str, str]:
    """Return the study labels that an object's attributes give.

    `modality`, `body_part` (the DICOM code), `site` (Chinese), `manufacturer`, `model`, `sex`
    (F, M or O) and `age` (whole years); whatever is unknown is absent.
    """

    def text(keyword: str) -> str:
        return read_text(header.dataset, keyword, charset)

    body_part = text("BodyPartExamined").upper()
    labels = {
        "modality": modality_label(header.sop_class, text("Modality")),
        "body_part": body_part if body_part.isascii() and body_part in _SITE_OF else "",
        "site": find_site(body_part) or find_site(text("StudyDescription")),
        "manufacturer": _product(text("Manufacturer")),
        "model": _product(text("ManufacturerModelName")),
        "sex": text("PatientSex") if text("PatientSex") in ("F", "M", "O") else "",
        "age": read_age(text("PatientAge")),
    }
    return {name: value for name, value in labels.items() if value}


def find_site(description: str) -> str:
    """The Chinese name of the one site that a code or description names; empty if none or several.

    Words are compared whole. Chinese ones lose what every examination is called by, as in
    `甲状腺彩超检查`.
    """
    words = re.split(r"[\s,;/+、，；()（）^_-]+", description.upper())
    whole = "".join(words)
    found = {
        _SITE_OF[word]
        for word in (whole, *words, *(_AFFIXES.sub("", word) for word in words))
        if word in _SITE_OF
    }
    return found.pop() if len(found) == 1 else ""


def read_age(age_string: str) -> str:
    """Whole years of an Age String, as `045Y`, `018M`, `003W` or `010D`; empty if it is none."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", age_string)
    if match is None:
        return ""
    per_year = {"Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return str(min(int(match[1]) // per_year, _OLDEST))


def _product(text: str) -> str:
    """A product's name on one line; empty where it has what no product's name has."""
    return text if len(text) <= 64 and text.isprintable() and "^" not in text else ""
