"""A risk from patient columns, with what each column contributes.

A logistic regression (scikit-learn), because its log-odds are a sum: a column contributes its own
term less the mean of that term over the training patients, and base and contributions add up to the
log-odds exactly. For a model without interactions these are the Shapley values that SHAP estimates
of others (S. Lundberg and S.-I. Lee, arXiv 1705.07874), with columns taken as independent. A model
of trees might fit better; its explanation would be an estimate, and a few hundred patients seldom
pay for it.

Numbers are standardised, an unknown one takes the median and a term of its own; of words each value
with at least `LEAST` training patients has a term, and all others none. The penalty is chosen by
log-likelihood, the log-odds are calibrated by Platt's curve and the threshold is set for a
sensitivity, all on folds that leave a training patient out. What is kept is a small JSON file that
is evaluated without scikit-learn.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonoray.config.model import Config
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray_jobs.evaluation.structured.patient_columns import Record, Value


class Term(Config):
    """What a column adds to the log-odds."""

    is_number: bool
    weights: dict[str, float]
    """Of words by value; of numbers of `NUMBER` (per standard deviation) and `UNKNOWN`."""
    centre: float = 0.0
    spread: float = 1.0
    median: float = 0.0
    thirds: tuple[float, ...] = ()
    """Of numbers: where the middle and the upper third of the training patients begin."""
    usual: float = 0.0
    """Mean of the term over the training patients."""

    def value(self, given: Value | None) -> float:
        """The term of a value; of None where it is unknown."""
        if not self.is_number:
            return self.weights.get(str(given), 0.0) if given is not None else 0.0
        known = self.median if given is None else float(given)
        value = self.weights[NUMBER] * (known - self.centre) / self.spread
        return value + (self.weights[UNKNOWN] if given is None else 0.0)


NUMBER, UNKNOWN = "number", "unknown"
CONSTANT = "is the same for all training studies"
"""Why a column has no term: nothing is learned of it, and no spread can be told from rounding."""


class RiskModel(Config):
    """A fitted risk model."""

    outcome: str
    positive: str
    base: float
    """Log-odds of who contributes nothing."""
    terms: dict[str, Term]
    """By column, calibrated."""
    threshold: float
    """Probability from which on a study is called positive."""
    penalty: float
    num_studies: int
    num_positive: int

    def contributions(self, record: Record) -> dict[str, float]:
        """What each column adds to the log-odds, the largest first; `base` and they are its sum."""
        found = {
            name: term.value(record.get(name)) - term.usual for name, term in self.terms.items()
        }
        return dict(sorted(found.items(), key=lambda each: -abs(each[1])))

    def probability(self, record: Record) -> float:
        """The risk of a study."""
        return logistic(self.base + sum(self.contributions(record).values()))

    def calls(self, record: Record) -> bool:
        """Whether a study is called positive."""
        return self.probability(record) >= self.threshold

    def worth(self, records: Sequence[Record]) -> dict[str, float]:
        """Mean size of each column's contribution over studies, the largest first."""
        found = dict.fromkeys(self.terms, 0.0)
        for record in records:
            for name, own in self.contributions(record).items():
                found[name] += abs(own) / len(records)
        return dict(sorted(found.items(), key=lambda each: -each[1]))


def logistic(value: float) -> float:
    """Log-odds as a probability."""
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))


def write_risk(path: Path, model: RiskModel) -> None:
    """Write a model, whole or not at all."""
    write_json(path, model.model_dump(mode="json"))


def read_risk(path: Path) -> RiskModel:
    """Read a model.

    Raises:
        DataError: the file is none.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return RiskModel.model_validate(found)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} is no risk model ({str(error).splitlines()[0]}); run: sonoray risk"
        ) from None
