"""Answers to questions about documents, as RJUA-MedDQA (arXiv 2402.14840) scores them.

- soft accuracy, of tables and arithmetic: 1 where the answer contains the true one, both normalised
  (full-width and half-width signs are the same, blanks do not count). An answer that says more than
  the truth is right so, and `118.2` contains `18.2`. Of choices, where it is the true one: an
  answer is always an option here, and one option may contain another (`没有`, `有`);
- ROUGE-L, of entities and short answers: `sonoray.metrics.overlap`, over characters.

The exact match stands beside them.
"""

from sonoray.metrics.overlap import rouge_l
from sonoray.metrics.text import normalise
from sonoray.metrics.tokens import character_tokens

SOFT, ROUGE, EXACT = "soft accuracy", "ROUGE-L", "exact match"
MEASURES = {"table": SOFT, "numeric": SOFT, "choice": SOFT, "entity": ROUGE, "short": ROUGE}
"""By what a question asks for: how its answer is scored."""


def soft_accuracy(truth: str, answer: str) -> float:
    """1 where the answer contains the truth, else 0; a truth without characters is in none."""
    wanted = normalise(truth)
    return float(bool(wanted) and wanted in normalise(answer))


def document_score(task: str, truth: str, answer: str) -> float:
    """Score of an answer by the measure of its task, between 0 and 1."""
    if task == "choice":
        return exact(truth, answer)
    if MEASURES[task] == SOFT:
        return soft_accuracy(truth, answer)
    return rouge_l([character_tokens(truth)], character_tokens(answer))


def exact(truth: str, answer: str) -> float:
    """1 where both are the same after normalisation, else 0."""
    return float(normalise(truth) == normalise(answer))
