"""The page of an audit: one HTML file that needs nothing else, neither script nor network.

It opens with what was found, then the charts, then the tables behind them and sample images. The
template beside this module (`page.html.jinja`) lays it out; Jinja escapes every value, since texts,
labels and file names are whatever a source brought.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sonoray.audit.overview_tables import label_table, split_table, topic_table
from sonoray.metrics.tables import Table

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def template_digest() -> str:
    """Sha256 (hex) of the template, for the key of what is rendered with it."""
    return hashlib.sha256(_TEMPLATE.read_bytes()).hexdigest()


def render_page(
    values: Mapping[str, Any],
    overview: Path,
    sheet: Path,
    evidence: Mapping[str, bytes],
    *,
    masked: Path | None = None,
) -> str:
    """Return the page.

    Args:
        values: as `json_values.to_values` gives them, with name, path, distance and findings.
        overview: the PNG of the charts.
        sheet: the PNG of the contact sheet.
        evidence: by study ids joined with blanks, a PNG of their shared picture.
        masked: the PNG of images by what was covered of burned-in text; None where nothing was.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"data_uri": _data_uri, "numeric_columns": _numeric_columns}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        values=values,
        cards=_cards(values),
        findings=_findings(values),
        tables=_tables(values),
        overview=overview.read_bytes(),
        sheet=sheet.read_bytes(),
        masked=None if masked is None else masked.read_bytes(),
        evidence=evidence,
    )


def _cards(values: Mapping[str, Any]) -> list[tuple[int, str]]:
    splits = values["splits"].values()
    return [
        (sum(each["patients"] for each in splits), "patients"),
        (sum(each["studies"] for each in splits), "studies"),
        (sum(each["images"] for each in splits), "images"),
        (values["masks"]["images"] - values["masks"]["empty"], "images with a mask"),
        (sum(sum(topic["questions"].values()) for topic in values["topics"]), "texts"),
        (sum(each["quarantined"] for each in values["accounting"].values()), "rejected"),
    ]


def _findings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kind and message of what was found, and of what was looked for and not found."""
    rows = [
        ("serious" if each["serious"] else "warning", each["message"])
        for each in values["findings"]
    ]
    if not any(values["leakage"]["counts"].values()):
        rows.append(
            ("clear", f"no patient, image or near duplicate is in two splits ({values['rule']})")
        )
    if values["against"] and not values["against"]["shared"]:
        rows.append(
            ("clear", f"no image of {values['against']['dataset']} is here ({values['rule']})")
        )
    labels = values["contradictions"]["labels"]
    if labels and not any(each["found"] for each in labels):
        names = ", ".join(each["label"] for each in labels)
        rows.append(("clear", f"no text names another value than its label ({names})"))
    if not any(values["conflicts"]["counts"].values()):
        rows.append(("clear", "no picture has two labels or two answers to one question"))
    return rows


def _tables(values: Mapping[str, Any]) -> dict[str, Table]:
    counts = ("seen", "kept", "duplicate", "quarantined")
    kinds = {"image": "same pixels"}
    return {
        "splits": split_table(values),
        "labels": label_table(values),
        "topics": topic_table(values),
        "accounting": _table(
            ("", *counts),
            [(name, *(n[key] for key in counts)) for name, n in values["accounting"].items()],
        ),
        "reasons": _table(("reason", "rows"), values["reasons"].items()),
        "leakage": _table(
            ("in more than one split", "number"), values["leakage"]["counts"].items()
        ),
        "duplicates": _table(
            ("pictures", "within one patient", "between patients"),
            [
                (kinds.get(kind, "near duplicates"), n["within"], n["between"])
                for kind, n in values["duplicates"]["counts"].items()
            ],
        ),
        "contradictions": _table(
            ("label", "studies that have it", "contradicted"),
            [
                (each["label"], each["studies"], each["found"])
                for each in values["contradictions"]["labels"]
            ],
        ),
        "answers": _table(
            ("topic", "answer", "share"),
            [
                (topic["topic"], top["text"], f"{top['share']:.0%}")
                for topic in values["topics"]
                for top in topic["top"]
                if top["text"] is not None
            ],
        ),
    }


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Table:
    return Table(header=header, rows=tuple(tuple(map(str, row)) for row in rows))


def _numeric_columns(table: Table) -> set[int]:
    """Places of the columns whose every cell starts with a digit, is empty or a dash."""
    return {
        place
        for place, column in enumerate(zip(*table.rows, strict=True))
        if all(cell[:1].isdigit() or cell in ("-", "") for cell in column)
    }


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
