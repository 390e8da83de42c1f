"""What a hospital calls the columns of its table: named with `--columns`, or proposed.

An information system exports `检查号`, `超声所见` and `超声提示`, or `Accession Number` and
`Impression`, or the fields of HL7 messages, `OBR-3` and `OBX-5`. What they are is said by
`--columns report=超声所见+超声提示,accession=检查号`. Several columns that are joined with `+`
become one text, a line each, empty ones left out. Where a table lacks a column, `propose` looks for
names that mean it, and the error shows them as the option to give: nothing is read under a guess.

Values of HL7's `OBX-5` keep the escapes of their message; these become what they stand for.
"""

import re
import shlex
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from sonoray.errors import ConfigError, DataError

Fields = Mapping[str, Any]
"""A row as the file has it, by column."""

LABEL = "label:"
"""How the name of a column begins that holds a label."""

_FINDINGS = (
    "超声所见 检查所见 影像所见 所见 超声描述 检查描述 影像描述 影像表现 "
    "findings finding ultrasoundfindings usfindings"
)
_IMPRESSION = (
    "超声提示 检查提示 提示 超声诊断 影像诊断 诊断意见 诊断 诊断结论 检查结论 结论 超声印象 印象 "
    "impression impressions conclusion conclusions"
)
_WHOLE = (
    "报告 报告内容 报告正文 报告文本 检查报告 诊断报告 超声报告 report reporttext reportcontent "
    "reportbody fullreport narrative observationvalue OBX5"
)
_ACCESSION = (
    "检查号 检查编号 检查流水号 影像号 超声号 超声编号 申请单号 "
    "accession accessionnumber accessionno accessionnum accno examno examnumber "
    "fillerordernumber 00080050 OBR3 OBR18 ORC3"
)
_NAMES: Mapping[str, str] = {
    "study_uid": "检查uid 检查实例uid studyuid studyinstanceuid 0020000d ZDS1",
    "accession": _ACCESSION,
    "study": f"检查 studyid examid exam {_ACCESSION}",
    "patient": (
        "患者id 患者号 患者编号 病人id 病人号 病人编号 病历号 病案号 就诊卡号 patientid patientno "
        "patientnumber mrn medicalrecordnumber 00100020 PID3"
    ),
    "image": "图像 图片 图像路径 图片路径 图像文件 图片文件 影像路径 imagepath imagefile imagename",
    "question": "问题 提问",
    "answer": "答案 回答",
    "label:site": "检查部位 部位 bodypart bodypartexamined examinedpart bodysite",
}
"""What our columns are called elsewhere, plain; a name in capitals begins one, as `OBX-5 Value`."""

_LISTS = ("images", "options")
"""Ours that hold several values, separated by semicolons."""
_HL7_TEXT = "OBX5"
_HL7_ESCAPE = re.compile(r"\\(\.br|[FSTRE])\\")
_HL7_MEANS = {".br": "\n", "F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
_NEEDS_QUOTES = re.compile(r"""[\s'"$`&|;<>()*?\\!#~\[\]{}]""")


def read_columns(texts: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Read what `--columns` says: by our column, the table's own, as it was written.

    Args:
        texts: each as `report=超声所见+超声提示,accession=检查号`.
        known: our columns; `label:` among them stands for all that begin so.

    Raises:
        ConfigError: one is no `NAME=COLUMN`, or names no column of ours, or one twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        pairs: list[str] = []
        for part in text.split(","):
            if "=" in part or not pairs:
                pairs.append(part)
            else:
                pairs[-1] += f",{part}"  # a comma of the column's own name
        for pair in pairs:
            name, _, columns = (side.strip() for side in pair.partition("="))
            if not name or not columns:
                raise ConfigError(
                    f"--columns {text!r} is no list of NAME=COLUMN; write it like "
                    "report=超声所见+超声提示,accession=检查号"
                )
            if name not in known and not (LABEL in known and name.startswith(LABEL)):
                near = get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ConfigError(
                    f"--columns names {name!r}{hint}, which is none of {', '.join(known)}"
                )
            if name in found:
                raise ConfigError(f"--columns names {name!r} twice; join columns with +")
            found[name] = columns
    return found


def map_columns(
    wanted: Mapping[str, str], header: Collection[str], table: str
) -> dict[str, tuple[str, ...]]:
    """Return the columns of a table that each of ours is read from.

    Args:
        wanted: as `read_columns` returns it.
        header: the table's columns; one whose name has a `+` is meant by that name.
        table: what messages call it.

    Raises:
        DataError: the table lacks one.
    """
    found = {}
    for name, said in wanted.items():
        columns = (said,) if said in header else tuple(part.strip() for part in said.split("+"))
        if missing := [column for column in columns if column not in header]:
            raise DataError(
                f"{table} has no column {', '.join(map(repr, missing))}, which --columns names for "
                f"{name!r}; it has {', '.join(header)}"
            )
        found[name] = columns
    return found


def renamed(fields: Fields, columns: Mapping[str, tuple[str, ...]]) -> Fields:
    """Return a row under our names; columns that are not named keep theirs."""
    row = dict(fields)
    for name, theirs in columns.items():
        values = [_plain_value(column, fields.get(column)) for column in theirs]
        if len(values) > 1:
            parts = ("" if value is None else str(value).strip() for value in values)
            row[name] = (";" if name in _LISTS else "\n").join(filter(None, parts))
        else:
            row[name] = values[0]
    return row


def with_hint(column: str, known: Collection[str]) -> str:
    """An unknown column, and the known one that it may mean: `Study`, `studies`, `Label:site`."""
    plain = column.strip().lower()
    if plain.startswith(LABEL):
        meant = [LABEL + column.strip()[len(LABEL) :]]
    else:
        meant = get_close_matches(plain, known, n=1, cutoff=0.65)
    return f"{column!r} (did you mean {meant[0]!r}?)" if meant else repr(column)


def propose(header: Collection[str], wanted: Collection[str]) -> str:
    """Return the option that names those of `wanted` which a header seems to have; may be empty.

    Args:
        header: the table's columns.
        wanted: our columns.
    """
    taken: set[str] = set()
    pairs = []
    for name in wanted:
        columns = _report_columns(header) if name == "report" else _means(header, _NAMES[name])[:1]
        if columns and not taken.intersection(columns):
            taken.update(columns)
            pairs.append(f"{name}={'+'.join(columns)}")
    said = ",".join(pairs)
    return f"--columns {shlex.quote(said) if _NEEDS_QUOTES.search(said) else said}" if said else ""


def _report_columns(header: Collection[str]) -> list[str]:
    """Findings and impression where a table has both, else the report as a whole, else one."""
    findings, impression, whole = (
        _means(header, names)[:1] for names in (_FINDINGS, _IMPRESSION, _WHOLE)
    )
    if findings and impression:
        return [*findings, *impression]
    return whole or findings or impression


def _means(header: Collection[str], names: str) -> list[str]:
    """Columns that are called one of `names`, the likeliest first."""
    found: dict[str, int] = {}
    for column in header:
        plain = _plain_name(column)
        for place, name in enumerate(names.split()):
            if plain == name or (name.isupper() and _is_field(column, name)):
                found.setdefault(column, place)
    return sorted(found, key=found.__getitem__)


def _is_field(column: str, field: str) -> bool:
    """Whether a column is called by a field of HL7: for `OBX5` also `obx-5` and `OBX.5.1 Value`."""
    segment, number = field[:3], field[3:]
    folded = unicodedata.normalize("NFKC", column)
    return re.match(rf"{segment}[\W_]*{number}(?!\d)", folded, re.IGNORECASE) is not None


def _plain_name(column: str) -> str:
    """A name without case, width, blanks and signs."""
    folded = unicodedata.normalize("NFKC", column).casefold()
    return "".join(filter(str.isalnum, folded))


def _plain_value(column: str, value: Any) -> Any:  # noqa: ANN401 - whatever the row has
    """A value without the escapes of HL7, where its column is one of HL7's texts."""
    if not isinstance(value, str) or not _is_field(column, _HL7_TEXT):
        return value
    return _HL7_ESCAPE.sub(lambda escape: _HL7_MEANS[escape[1]], value)
