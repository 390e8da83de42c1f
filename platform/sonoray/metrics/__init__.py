"""What an evaluation says: numbers with intervals over patients, and the tables that show them.

- `closed`: closed questions, beside the constant answer.
- `text`: free-text answers.
- `bootstrap`: the intervals.
- `table`: Markdown and aligned text.
"""

from sonoray.metrics.bootstrap import Bootstrap, Estimate
from sonoray.metrics.closed import AnswerRecord, ClosedMetrics, closed_metrics
from sonoray.metrics.table import Table, closed_table, text_table
from sonoray.metrics.text import TextMetrics, char_f1, text_metrics

__all__ = [
    "AnswerRecord",
    "Bootstrap",
    "ClosedMetrics",
    "Estimate",
    "Table",
    "TextMetrics",
    "char_f1",
    "closed_metrics",
    "closed_table",
    "text_metrics",
    "text_table",
]
