"""The page of an audit: one HTML file that needs nothing else, neither script nor network.

It opens with what was found, then the charts, then the tables behind them and sample images.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sonoray.metrics.tables import Table

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei",
  sans-serif; color: #1d2733; background: #f4f6f8; margin: 0; }
header { background: #16324a; color: white; padding: 24px 40px 18px; }
header h1 { margin: 0; font-size: 26px; font-weight: 600; }
header p { margin: 4px 0 0; color: #bccfdd; overflow-wrap: anywhere; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 32px 60px; }
section { background: white; border-radius: 8px; padding: 16px 24px 20px; margin: 18px 0;
  box-shadow: 0 1px 3px #0002; overflow-x: auto; }
h2 { font-size: 19px; margin: 4px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p.note { color: #5a6775; margin: 4px 0 10px; max-width: 88ch; }
.cards { display: flex; gap: 14px; flex-wrap: wrap; }
.card { background: white; border-radius: 8px; padding: 12px 20px; box-shadow: 0 1px 3px #0002;
  min-width: 110px; }
.card b { display: block; font-size: 24px; font-weight: 600; }
.card span { color: #5a6775; font-size: 13px; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #e4e9ee;
  vertical-align: top; }
th { color: #5a6775; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td code { font-size: 12px; overflow-wrap: anywhere; }
ul.findings { list-style: none; padding: 0; margin: 0; }
ul.findings li { padding: 7px 0; border-bottom: 1px solid #eef1f4; }
.badge { display: inline-block; width: 76px; text-align: center; border-radius: 4px;
  font-size: 12px; font-weight: 600; margin-right: 12px; padding: 1px 0; }
.serious { background: #b3332e; color: white; }
.warning { background: #f3d98b; color: #54400a; }
.clear { background: #3f8a59; color: white; }
img { max-width: 100%; height: auto; }
footer { color: #5a6775; font-size: 13px; }
@media print { body { background: white; } section, .card { box-shadow: none; } }
"""


def render_page(
    values: Mapping[str, Any], overview: Path, sheet: Path, evidence: Mapping[str, bytes]
) -> str:
    """Return the page.

    Args:
        values: as `audit.to_values` gives them.
        overview: the PNG of the charts.
        sheet: the PNG of the contact sheet.
        evidence: by study ids joined with blanks, a PNG of their shared picture.
    """
    from sonoray_jobs.data.audit import label_table, split_table, topic_table

    name = escape(values["dataset"])
    body = [
        _section("What was found", _findings(values)),
        _section("Overview", _image(overview.read_bytes(), "charts of the counts below")),
        _section("Splits", _table(split_table(values)), _accounting(values)),
        _section("Leakage", *_leakage(values, evidence)),
        _section("Duplicates", *_duplicates(values, evidence)),
        _section("One picture, two names", *_conflicts(values, evidence)),
        _section("Texts against labels", *_contradictions(values)),
        _section("Texts that repeat", *_texts(topic_table(values), values)),
        _section("Labels", _table(label_table(values))),
        _section(
            "Sample images",
            _note(
                "A random draw, of as many studies as fit; images that show the finding first, "
                "where that is known. Yellow: the outline of the mask."
            ),
            _image(sheet.read_bytes(), "sample images by label and split"),
        ),
    ]
    title = f"Dataset {name}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><header><h1>{title}</h1><p>{escape(values['path'])}</p></header>\n<main>"
        f'<div class="cards">{"".join(_cards(values))}</div>\n' + "\n".join(body) + "\n<footer>"
        "For research only. This page shows patients' images: keep it where they are kept."
        "</footer></main></body></html>\n"
    )


def _cards(values: Mapping[str, Any]) -> Iterable[str]:
    splits = values["splits"].values()
    numbers = [
        (sum(each["patients"] for each in splits), "patients"),
        (sum(each["studies"] for each in splits), "studies"),
        (sum(each["images"] for each in splits), "images"),
        (values["masks"]["images"] - values["masks"]["empty"], "images with a mask"),
        (sum(sum(topic["questions"].values()) for topic in values["topics"]), "texts"),
        (sum(each["quarantined"] for each in values["accounting"].values()), "rejected"),
    ]
    return (
        f'<div class="card"><b>{number:,}</b><span>{name}</span></div>' for number, name in numbers
    )


def _findings(values: Mapping[str, Any]) -> str:
    rows = [
        ("serious" if each["serious"] else "warning", each["message"])
        for each in values["findings"]
    ]
    if not any(values["leakage"]["counts"].values()):
        rows.append(("clear", "no patient, image or near duplicate is in two splits"))
    labels = values["contradictions"]["labels"]
    if labels and not any(each["found"] for each in labels):
        names = ", ".join(each["label"] for each in labels)
        rows.append(("clear", f"no text names another value than its label ({names})"))
    if not any(values["conflicts"]["counts"].values()):
        rows.append(("clear", "no picture has two labels or two answers to one question"))
    items = (
        f'<li><span class="badge {kind}">{kind}</span>{escape(message)}</li>'
        for kind, message in rows
    )
    return f'<ul class="findings">{"".join(items)}</ul>'


def _accounting(values: Mapping[str, Any]) -> str:
    header = ("", "seen", "kept", "duplicate", "quarantined")
    rows = tuple(
        (name, *(str(count[key]) for key in header[1:]))
        for name, count in values["accounting"].items()
    )
    reasons = tuple((reason, str(number)) for reason, number in values["reasons"].items())
    parts = [
        "<h3>What became of what ingest saw</h3>",
        _note("seen = kept + duplicate + quarantined"),
        _table(Table(header=header, rows=rows)),
    ]
    if reasons:
        parts += ["<h3>Quarantine</h3>", _table(Table(header=("reason", "rows"), rows=reasons))]
    return "".join(parts)


def _leakage(values: Mapping[str, Any], evidence: Mapping[str, bytes]) -> Iterable[str]:
    yield _note(
        "Nothing of the test may have been seen in training. Two images are near duplicates where "
        f"at most {values['near_duplicate_distance']} of the 256 bits of their perceptual hashes "
        "differ, also through others."
    )
    counts = values["leakage"]["counts"]
    rows = tuple((kind, str(number)) for kind, number in counts.items())
    yield _table(Table(header=("in more than one split", "number"), rows=rows))
    yield _shared(values["leakage"]["rows"], evidence)


def _duplicates(values: Mapping[str, Any], evidence: Mapping[str, bytes]) -> Iterable[str]:
    yield _note(
        "Pictures that several studies show. Between patients they may be one person under two "
        "identifiers; ingest keeps such patients in one split."
    )
    rows = tuple(
        (
            "same pixels" if kind == "image" else "near duplicates",
            str(n["within"]),
            str(n["between"]),
        )
        for kind, n in values["duplicates"]["counts"].items()
    )
    yield _table(Table(header=("pictures", "within one patient", "between patients"), rows=rows))
    yield _shared(values["duplicates"]["rows"], evidence)


def _shared(rows: Sequence[Mapping[str, Any]], evidence: Mapping[str, bytes]) -> str:
    if not rows:
        return ""
    lines = [
        "<tr>"
        f"<td>{escape(row['kind'])}</td><td>{', '.join(row['splits'])}</td>"
        f'<td class="number">{row["num_patients"]}</td>'
        f'<td class="number">{row["distance"]}</td>'
        f"<td>{_ids(row['studies'], row['num_studies'])}</td>"
        f"<td>{_evidence(row['studies'], evidence)}</td></tr>"
        for row in rows
    ]
    head = ("shared", "splits", "patients", "bits", "studies", "")
    return _raw_table(head, lines, numbers=(2, 3))


def _conflicts(values: Mapping[str, Any], evidence: Mapping[str, bytes]) -> Iterable[str]:
    rows = values["conflicts"]["rows"]
    counts = values["conflicts"]["counts"]
    yield _note(
        f"Same pixels: {counts['exact']}. Near duplicates: {counts['near']}. Reports and captions "
        "are left out, as two of them may say one thing in two ways."
    )
    if rows:
        lines = [
            "<tr>"
            f"<td>{'same pixels' if row['exact'] else 'near duplicates'}</td>"
            f"<td>{escape(row['kind'])}</td><td>{escape(row['name'])}</td>"
            f"<td>{escape(' / '.join(row['values']) or 'texts')}</td>"
            f"<td>{_ids(row['studies'], len(row['studies']))}</td>"
            f"<td>{_evidence(row['studies'], evidence)}</td></tr>"
            for row in rows
        ]
        yield _raw_table(("picture", "kind", "name", "values", "studies", ""), lines)


def _contradictions(values: Mapping[str, Any]) -> Iterable[str]:
    found = values["contradictions"]
    yield _note(
        "A text contradicts a label where it names another value of it and not its own. Terms are "
        "looked up in a table; a hedged one (possibly malignant) counts, a negated one does not."
    )
    rows = tuple(
        (each["label"], str(each["studies"]), str(each["found"])) for each in found["labels"]
    )
    if rows:
        header = ("label", "studies that have it", "contradicted")
        yield _table(Table(header=header, rows=rows))
    for label, unknown in found["unchecked"].items():
        yield _note(f"{label} was not checked: no terms for {', '.join(unknown[:5])}.")
    if found["rows"]:
        lines = [
            f"<tr><td>{escape(row['label'])}</td><td>{escape(row['value'])}</td>"
            f"<td>{escape(', '.join(row['terms']))}</td><td>{escape(row['place'])}</td>"
            f"<td>{_ids([row['study_id']], 1)}</td><td>{escape(row.get('text', ''))}</td></tr>"
            for row in found["rows"]
        ]
        yield _raw_table(("label", "says", "text names", "in", "study", ""), lines)


def _texts(table: Table, values: Mapping[str, Any]) -> Iterable[str]:
    yield _note(
        "repeated: share of the answers that another question of the topic has too. constant: "
        "share of the test that the most frequent training answer gets right. seen: share of the "
        "test's answers that occur in training."
    )
    yield _table(table)
    rows = tuple(
        (topic["topic"], top["text"], f"{top['share']:.0%}")
        for topic in values["topics"]
        for top in topic["top"]
        if top["text"] is not None
    )
    if rows:
        yield "<h3>Most frequent answers of training</h3>"
        yield _table(Table(header=("topic", "answer", "share"), rows=rows))


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _evidence(studies: Sequence[str], evidence: Mapping[str, bytes]) -> str:
    png = evidence.get(" ".join(studies))
    return _image(png, "the pictures that they share") if png else ""


def _ids(studies: Sequence[str], total: int) -> str:
    """Study ids; the first 12 digits tell them apart, the whole is in the title and the JSON."""
    shown = " ".join(f'<code title="{escape(s)}">{escape(s[:12])}</code>' for s in studies)
    return shown + (f" and {total - len(studies)} more" if total > len(studies) else "")


def _table(table: Table) -> str:
    numeric = {
        place
        for place, column in enumerate(zip(*table.rows, strict=True))
        if all(cell[:1].isdigit() or cell in ("-", "") for cell in column)
    }
    lines = [
        "<tr>"
        + "".join(
            f'<td class="number">{escape(cell)}</td>'
            if n in numeric
            else f"<td>{escape(cell)}</td>"
            for n, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    ]
    return _raw_table(table.header, lines, numbers=tuple(numeric))


def _raw_table(header: Sequence[str], lines: Sequence[str], numbers: Sequence[int] = ()) -> str:
    head = "".join(
        f'<th class="number">{escape(cell)}</th>' if n in numbers else f"<th>{escape(cell)}</th>"
        for n, cell in enumerate(header)
    )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"
