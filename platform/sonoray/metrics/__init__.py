"""What an evaluation says: numbers with intervals over patients, and the tables that show them.

- `closed`: closed questions, beside the constant answer.
- `text`: free-text answers, beside the constant answer, for seen and unseen texts.
- `tokens`, `overlap`: characters and words; BLEU, ROUGE, METEOR and CIDEr of them.
- `paired`: two sets of answers to the same questions.
- `bootstrap`: the intervals.
- `table`, `plots`: Markdown and aligned text, and pictures without anything of a patient.
"""

from sonoray.metrics.answers import AnswerRecord
from sonoray.metrics.closed import (
    ALL_CLOSED,
    AllClosed,
    ClosedMetrics,
    all_closed_metrics,
    closed_metrics,
)
from sonoray.metrics.paired import (
    Difference,
    McNemar,
    TopicComparison,
    compare_all_closed,
    compare_answers,
)
from sonoray.metrics.resampling import Bootstrap, Estimate
from sonoray.metrics.tables import Table, closed_table, text_table
from sonoray.metrics.text import TextMetrics, char_f1, text_metrics

__all__ = [
    "ALL_CLOSED",
    "AllClosed",
    "AnswerRecord",
    "Bootstrap",
    "ClosedMetrics",
    "Difference",
    "Estimate",
    "McNemar",
    "Table",
    "TextMetrics",
    "TopicComparison",
    "all_closed_metrics",
    "char_f1",
    "closed_metrics",
    "closed_table",
    "compare_all_closed",
    "compare_answers",
    "text_metrics",
    "text_table",
]
