"""Report texts without what identifies: dates, numbers, names after labels, and known values.

`clean_text` replaces by short tags

- what has a form of its own: dates, e-mail addresses, telephone and identity card numbers, UIDs,
  and any whole number of six digits or more, as no measurement has;
- what stands after a label: names (`检查医师：`), numbers (`住院号`), addresses;
- the study's own `Identifiers` (the header's names in every order, numbers, institution).

It errs on the side of removing: a patient called Long loses the word in `Long axis`. What it cannot
see are ages and, where the header does not have them, names without a label and those in small
letters after `Patient:`, which sentences follow too. Whether anything real goes
was counted on the 5,890 published reports of KMVE, which hold no identifiers: nothing is replaced.

Dates become `[日期]`, or move by the patient's number of days where the caller says by how many and
the date is whole and can be read in one way; others become the tag all the same.

Source: PS3.15 table E.1-1, Clean Descriptors Option (DCM 113105).
"""

import datetime
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sonoray.study.identifiers import NOBODY, Identifiers

NAME, DATE, NUMBER = "name", "date", "number"
PHONE, EMAIL, PLACE = "phone", "email", "place"
TAGS = {
    NAME: "[姓名]",
    DATE: "[日期]",
    NUMBER: "[编号]",
    PHONE: "[电话]",
    EMAIL: "[邮箱]",
    PLACE: "[机构]",
}
"""What stands in the place of a value, by kind."""

_FULL_WIDTH = {"\u3000": " "} | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_TO_ASCII = str.maketrans(_FULL_WIDTH)
"""Full-width forms to ASCII, one for one, so that positions stay."""

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_WHITHER = "于在到由至往赴"
"""Prepositions before a place: they stay, and no name of a place is looked for across them."""
_CHINESE_DIGITS = "〇零一二三四五六七八九十"
_YEAR = r"(?:19|20)\d{2}"
_MONTH, _DAY = r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_TIME = r"(?:[T\s]*[0-2]?\d[:时]\d{2}(?:[:分]\d{2}秒?)?分?)?"
_MONTH_NAME = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"

_BEFORE, _AFTER = r"(?<!\d)(?<!\d\.)", r"(?!\d|\.\d)"
"""Around a number: it is not part of a longer one, and a full stop may follow it."""

_WHOLE_DATE = re.compile(
    rf"{_BEFORE}(?P<year>{_YEAR})(?P<one>\s?年\s?|[-/.])(?P<month>{_MONTH})(?P<two>\s?月\s?|[-/.])"
    rf"(?P<day>{_DAY})(?!\d)(?P<end>\s?[日号]?){_TIME}"
    rf"|{_BEFORE}(?P<run>{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])){_AFTER}"
)
"""Year, month and day, in the one order in which they can be read in one way."""
_MM, _DD, _LATE_DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:1[3-9]|2\d|3[01])"
_OTHER_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_BEFORE}{_YEAR}\s?年(?:\s?{_MONTH}\s?月(?:份|\s?{_DAY}\s?[日号])?)?",
        rf"(?<!\d)(?:\d\d\s?年\s?)?{_MONTH}\s?月\s?{_DAY}\s?[日号]{_TIME}",
        rf"[{_CHINESE_DIGITS}]{{4}}年(?:[{_CHINESE_DIGITS}]{{1,3}}月(?:[{_CHINESE_DIGITS}]{{1,3}}[日号])?)?",
        rf"(?<![{_CHINESE_DIGITS}])[{_CHINESE_DIGITS}]{{1,2}}月[{_CHINESE_DIGITS}]{{1,3}}[日号]",
        rf"{_BEFORE}(?:{_DAY}[-/.]{_MONTH}|{_MONTH}[-/.]{_DAY})[-/.]{_YEAR}{_AFTER}{_TIME}",
        rf"{_BEFORE}{_YEAR}[-/]{_MM}{_AFTER}",
        rf"{_BEFORE}(?<!-)\d\d[-/]{_MM}[-/]{_DD}{_AFTER}(?!-)",
        rf"{_BEFORE}(?<!/)(?:{_MM}/{_DD}|{_DD}/{_MM})/\d\d{_AFTER}(?!/)",
        rf"{_BEFORE}(?<!/)(?:{_MONTH}/{_LATE_DAY}|{_LATE_DAY}/{_MONTH})/\d\d{_AFTER}(?!/)",
        rf"{_BEFORE}(?:{_MM}\.{_DD}|{_DD}\.{_MM})\.\d\d{_AFTER}",
        rf"(?<![a-z]){_MONTH_NAME}\s?{_DAY}(?:st|nd|rd|th)?,?\s+{_YEAR}{_TIME}",
        rf"(?<!\d){_DAY}(?:st|nd|rd|th)?[-\s]{_MONTH_NAME},?[-\s]{_YEAR}{_TIME}",
        rf"(?<![a-z]){_MONTH_NAME}\s{_YEAR}(?!\d)",
    )
)

_FORMS: Sequence[tuple[str, re.Pattern[str]]] = (
    (
        EMAIL,  # each run is bounded, else a long text of letters takes the square of its length
        re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"),
    ),
    (PHONE, re.compile(r"(?<!\d)(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)")),
    (PHONE, re.compile(r"(?<!\d)(?:\(0\d{2,3}\)|0\d{2,3}-)\s?\d{7,8}(?:-\d{1,6})?(?!\d)")),
    (PHONE, re.compile(r"\+\d{1,3}[- ]?(?:\(?\d{1,4}\)?[- ]?){2,5}\d{2,}")),
    (NUMBER, re.compile(r"(?<![\d.])\d+(?:\.\d+){4,}(?![\d.])")),  # a UID
    (
        NUMBER,  # also after letters and a dot (`No.123456`), but no decimals
        re.compile(
            r"(?:(?<![A-Za-z0-9.])[A-Za-z]{1,4}[-_]?|(?<!\d)(?<!(?<![^\W\d_])\.))\d{6,}[A-Za-z0-9-]*"
        ),
    ),
    (
        PLACE,
        re.compile(
            rf"(?:(?![{_WHITHER}])[\u4e00-\u9fff]){{1,8}}?(?:省|市|自治区|县|大学)[\u4e00-\u9fff]{{0,14}}?"
            r"(?:医院|卫生院|诊所|保健院|医学中心)"
        ),
    ),
)
"""What a form of its own tells, by kind, in order of preference."""

_SIGNED = (
    r"姓\s*名|患者姓名|病人姓名|受检者(?:姓名)?|联系人|签名|签字|录入员?|记录[者员]|操作者|检查者|"
    r"(?:检查|报告|审核|诊断|申请|主治|主管|操作|送检|记录|书写|超声|签发|接诊|责任)(?:医师|医生|大夫)"
    r"|审核[者人]?|报告[者人]"
)
_LATIN_SIGNED = (
    r"(?:patient(?:'s)?\s)?name|patient|physician|doctor|sonographer|operator|radiologist|"
    r"(?:reported|performed|referred|signed|verified|read)\sby|referring(?:\sphysician)?|dr\.?|prof\.?"
)
_NUMBERED = (
    r"(?:住院|门诊|检查|超声|影像|放射|片|病历|病案|登记|条码|条形码|医保|社保|就诊|申请单?|流水|标本|病床|"
    r"病区|急诊|体检|身份证|证件|床|卡)号码?|病历\s?id|身份证|编号|序号|id号?|mrn|"
    r"accession(?:\s(?:no|number))?|patient\s?id|(?:hospital|medical\srecord)\s(?:no|number)"
)
_SOUNDS = (
    "阿艾爱安敖奥巴拜班白贝比宾波伯卜布不才策朝次措达丹德迪丁都杜堆顿多额恩尔尕噶嘎格根古贡哈"
    "海甫汗合赫洪呼胡及吉加坚江金久卡开凯坎康柯克孜库奎拉来莱兰朗勒里力丽林龙卢鲁禄伦罗洛玛马"
    "麦曼买迈梅孟米木姆穆纳娜乃尼娘努诺欧帕派佩皮平普其奇恰钦琼曲肉热仁日茹如萨塞赛桑色沙山尚"
    "绍舍司苏荪素索塔台泰坦特提帖铁图吐托瓦万旺维温文乌吾西希夏逊雅娅亚延央叶衣依伊音义永尤玉"
    "约云赞增泽扎珍卓宗左再则"
)
"""Characters in which names of other languages are written by their sound, as `阿不都热合曼`."""
_TITLE = r"先生|女士|小姐|同志"
_SEX = r"性别|男|女|年龄"
_NEXT_LABEL = (
    rf"(?:{_SEX}|{_SIGNED}|(?i:{_NUMBERED})|(?:超声|检查|影像|临床|报告|诊断|审核|申请|送检)?"
    r"(?:所见|提示|描述|诊断|结论|意见|日期|时间))\s?:"
)
_PAD = r"[^\S\n]{1,4}"
_HAN_PERSON = (
    rf"(?!{_SEX})[{_HAN}]{_PAD}(?![男女])[{_HAN}](?:{_PAD}(?![男女])[{_HAN}])?(?![{_HAN}])"  # 李 娜
    rf"|[{_SOUNDS}]{{5,14}}(?:·[{_HAN}]{{1,8}}){{0,4}}"
    rf"|[{_HAN}]{{2,4}}(?:·[{_HAN}]{{1,8}}){{0,4}}(?![{_HAN}])"
    rf"|[{_HAN}]{{2,4}}?(?={_TITLE}|{_NEXT_LABEL})"
    rf"|[{_HAN}]{{2,3}}(?=[{_HAN}]*?(?:{_SEX}))"
)
_LETTER = rf"(?:(?![{_HAN}])[^\W\d_]|[\u0300-\u036f])"
"""Of any script but the Chinese, with accents."""
_WORD = rf"{_LETTER}(?:{_LETTER}|['’-])*+(?!\s?:)"
_CAPITALISED = rf"(?![a-zß-öø-ÿ]){_WORD}"
_PERSON = rf"(?!{_NEXT_LABEL})(?:{_HAN_PERSON})|{_CAPITALISED}(?:[ ^,]{{1,2}}{_CAPITALISED}){{0,4}}"
_SURE_PERSON = (
    rf"(?!{_NEXT_LABEL})"
    rf"(?:{_HAN_PERSON}|[{_HAN}]{{5,8}}(?:·[{_HAN}]{{1,8}}){{0,4}}(?![{_HAN}])|[{_HAN}]{{4}})"
    rf"|{_CAPITALISED}(?:[ ^,]{{1,2}}{_CAPITALISED}){{1,4}}"
    rf"|{_WORD}(?:[ ^,]{{1,2}}(?!(?i:male|female|sex|gender|age|aged|dob)\b){_WORD}){{0,2}}"
)
"""After a label that names are written after and nothing else: long ones and small letters too."""
_LABELLED: Sequence[tuple[str, str]] = (
    (
        NAME,
        rf"(?:{_SIGNED})\s*+:\s*+(?P<value>(?:{_SURE_PERSON})(?:[、/,]\s?(?:{_PERSON})){{0,9}})",
    ),
    (NAME, rf"(?:{_SIGNED})\s++(?P<value>(?:{_PERSON})(?:[、/,]\s?(?:{_PERSON})){{0,9}})"),
    # a loose label, which clinical words may follow too
    (NAME, rf"(?:患者|病人|患儿|产妇|孕妇)\s*+:\s*+(?P<value>{_PERSON})"),
    (
        NAME,
        rf"(?<![A-Za-z])(?i:{_LATIN_SIGNED})\s*(?::\s*+|(?<=\.)\s*+|(?<=\bdr)\s++|(?<=\bby)\s++)"
        rf"(?P<value>{_PERSON})",
    ),
    (
        NAME,
        rf"(?<![A-Za-z])(?!(?i:patient)\s*:)(?i:{_LATIN_SIGNED})\s*+:\s*+(?P<value>{_SURE_PERSON})",
    ),
    (
        NUMBER,
        rf"(?<![A-Za-z])(?i:{_NUMBERED})\s*+(?:[:.#]\s*+)?(?:(?i:no)\s?[.:]\s*+)?"
        r"(?P<value>(?=[A-Za-z-]{0,32}\d)[A-Za-z0-9-]{1,200})",
    ),
    (NUMBER, r"(?<![\d.])(?P<value>\d{1,3}\s?床)(?!旁)"),
    (
        PHONE,
        r"(?:电话|手机|(?i:tel|phone|fax))号?码?\s*+(?:[:.]\s*+)?(?P<value>\+?[\d() -]{5,40})",
    ),
    (
        PLACE,
        r"(?:住址|地址|工作单位|籍贯|送检单位|申请单位|医院名称|(?i:address|hospital|institution))"
        r"\s*+:\s*+(?P<value>[^\s,。;、]{1,100})",
    ),
)
"""What a label tells: the group `value` goes, the label stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanText:
    """A text after cleaning."""

    text: str = field(repr=False)
    replaced: Mapping[str, int]
    """By kind, of `TAGS`: how many were replaced; dates that moved count too."""


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    kind: str
    instead: str = field(repr=False)


def clean_text(
    text: str, known: Identifiers = NOBODY, *, shift_days: int | None = None
) -> CleanText:
    """Replace what identifies.

    Args:
        text: any; line breaks and everything else stay as they are.
        known: values that are searched for, whatever their form.
        shift_days: by how many days whole dates move back; None replaces them as well.
    """
    spans = _merge(list(_spans(text.translate(_TO_ASCII), known, shift_days)))
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], span.instead]
        position = span.end
    pieces.append(text[position:])
    return CleanText(text="".join(pieces), replaced=Counter(span.kind for span in spans))


def _merge(spans: Sequence[_Span]) -> list[_Span]:
    """Join what overlaps: the first given says the kind, and what stands there if it covers all."""
    merged: list[tuple[int, _Span]] = []
    for rank, span in sorted(enumerate(spans), key=lambda each: (each[1].start, each[0])):
        if not merged or span.start >= merged[-1][1].end:
            merged.append((rank, span))
            continue
        rank_before, before = merged[-1]
        first = span if rank < rank_before else before
        start, end = before.start, max(before.end, span.end)
        whole = (first.start, first.end) == (start, end)
        instead = first.instead if whole else TAGS[first.kind]
        merged[-1] = (min(rank, rank_before), _Span(start, end, first.kind, instead))
    return [span for _, span in merged]


def _spans(text: str, known: Identifiers, shift_days: int | None) -> Iterator[_Span]:
    """Everything to replace, what is preferred first; spans may overlap."""
    for kind, pattern in _known_patterns(known):
        for match in pattern.finditer(text):
            yield _Span(*match.span(), kind, TAGS[kind])
    for kind, labelled in _LABELLED:
        # a lookahead, so that a value that looks like the next label does not hide it
        for match in re.finditer(f"(?={labelled})", text):
            yield _Span(*match.span("value"), kind, TAGS[kind])
    for match in _WHOLE_DATE.finditer(text):
        yield _Span(*match.span(), DATE, _shift(match, shift_days))
    for pattern in _OTHER_DATES:
        for match in pattern.finditer(text):
            yield _Span(*match.span(), DATE, TAGS[DATE])
    for kind, pattern in _FORMS:
        for match in pattern.finditer(text):
            yield _Span(*match.span(), kind, TAGS[kind])


def _shift(match: re.Match[str], days: int | None) -> str:
    """The date that many days before, in the same form; the tag where there is no such date."""
    run = match["run"]
    year, month, day = (
        (run[:4], run[4:6], run[6:]) if run else (match["year"], match["month"], match["day"])
    )
    try:
        date = datetime.date(int(year), int(month), int(day))
    except ValueError:  # the 31st of a short month
        return TAGS[DATE]
    if days is None:
        return TAGS[DATE]
    date -= datetime.timedelta(days=days)
    if run:
        return date.strftime("%Y%m%d")
    pad = len(month) == 2 or len(day) == 2
    months_days = (date.month, date.day)
    shown_month, shown_day = (f"{part:02d}" if pad else str(part) for part in months_days)
    return f"{date.year}{match['one']}{shown_month}{match['two']}{shown_day}{match['end']}"


def _known_patterns(known: Identifiers) -> Iterator[tuple[str, re.Pattern[str]]]:
    """One pattern for each kind that has values, longest values first."""
    values = {
        PLACE: {place for place in known.places if len(place) >= 4},
        NAME: {form for name in known.names for form in _name_forms(name)},
        NUMBER: {number for number in known.numbers if len(number) >= 4},
    }
    for kind, words in values.items():
        if words:
            ordered = sorted(words, key=lambda word: (-len(word), word))
            yield kind, re.compile("|".join(map(_search_for, ordered)), re.IGNORECASE)


def _search_for(word: str) -> str:
    """A pattern of the word: not within a longer Latin word or number, spaces as they come.

    Between Chinese characters too: forms pad names of two to the width of three.
    """
    word = word.translate(_TO_ASCII)
    pattern = r"[\s,^·.-]{1,3}".join(map(re.escape, re.split(r"[\s,^]+", word)))
    pattern = re.sub(rf"(?<=[{_HAN}])(?=[{_HAN}])", lambda _: r"[^\S\n]{0,4}", pattern)
    before = r"(?<![A-Za-z0-9])" if word[0].isascii() else ""
    after = r"(?![A-Za-z0-9])" if word[-1].isascii() else ""
    return before + pattern + after


def _name_forms(name: str) -> Iterator[str]:
    """Every form in which a person name may be written in a text.

    Of each of its groups (alphabetic, ideographic, phonetic): all components in every order, with
    and without spaces; the first two likewise; single ones of three Latin
    letters, or of two others.
    """
    for group in name.split("="):
        parts = [part for part in re.split(r"[\^\s,]+", group.strip()) if part]
        for chosen in {tuple(parts), tuple(parts[:2])}:
            if 2 <= len(chosen) <= 5:
                for order in itertools.permutations(chosen):
                    yield " ".join(order)
                    yield "".join(order)
        for part in parts:
            if len(part) >= (3 if part.isascii() else 2):
                yield part
