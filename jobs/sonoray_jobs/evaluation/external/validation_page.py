"""The page of an external validation: one HTML file that needs nothing else.

It shows counts, labels' values and figures, and nothing of a single patient. The template beside
this module lays it out; Jinja escapes every value, since labels are whatever a source brought.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sonoray_jobs.evaluation.external.summary_tables import (
    account_table,
    bin_table,
    decision_table,
    group_table,
    overview_table,
    risk_table,
    shown,
)

_TEMPLATE = Path(__file__).with_name("validation_page.html.jinja")


def template_digest() -> str:
    """Sha256 (hex) of the template, for the key of what is rendered with it."""
    return hashlib.sha256(_TEMPLATE.read_bytes()).hexdigest()


def render_page(values: Mapping[str, Any], curves: Mapping[str, Path], notice: str) -> str:
    """Return the page.

    Args:
        values: the content of `validation.json`.
        curves: by topic, the PNG of its curves.
        notice: what every result carries.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"data_uri": _data_uri, "shown": shown}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        values=values,
        notice=notice,
        cards=[
            (values["studies"]["judged"], "studies judged"),
            (values["studies"]["patients"], "patients"),
            (values["seen"]["studies"], "studies set aside as seen"),
            (values["studies"]["total"], "studies of the dataset"),
        ],
        overview=overview_table(values),
        accounts=account_table(values),
        topics={
            topic: {
                "found": found,
                "curves": curves[topic],
                "bins": bin_table(found["calibration"]),
                "risks": risk_table(found["risks"]),
                "decisions": decision_table(found["decisions"]),
                "groups": [group_table(label, each) for label, each in found["groups"].items()],
            }
            for topic, found in values["topics"].items()
        },
    )


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
