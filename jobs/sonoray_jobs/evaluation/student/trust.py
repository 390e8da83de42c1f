"""How far a student can be trusted: its calibration, and what each way of routing costs.

Both are found on patients that it has not seen (`router`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llava_ultra.student.learning import Learned
from llava_ultra.student.student_card import Route
from sonoray.metrics.external.temperature import fit_temperature
from sonoray.study.contract import SPLITS
from sonoray_jobs.evaluation.student.lessons import Row, model_records, student_records
from sonoray_jobs.evaluation.student.router import LEAST_PATIENTS, cooled, find_routes

VALIDATION = SPLITS[1]

_CALIBRATED = ("temperature", "abstain_below", "error_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """How far a student can be trusted, on patients that it has not seen."""

    chosen_on: str
    """`validation`, or `left out` for the patients of the training that it did not learn from."""
    calibration: Mapping[str, float]
    """As `StudentCard` has it."""
    routes: Sequence[Route]

    @property
    def temperature(self) -> float:
        """What its log-probabilities are divided by."""
        return self.calibration.get("temperature", 1.0)


def find_trust(
    learned: Learned, rows: Sequence[Row], split: str, *, max_error_rate: float
) -> Trust:
    """Find out on validation studies, or else on training studies that were left out.

    Args:
        learned: the student.
        rows: what the model said of the studies of all splits.
        split: the judged one, on which nothing is chosen.
        max_error_rate: as `fit_temperature` takes it.
    """
    train = [row for row in rows if row["split"] == SPLITS[0]]
    student, chosen_on = learned.student, VALIDATION
    unseen = [row for row in rows if row["split"] == VALIDATION] if split != VALIDATION else []
    if len({row["patient_key"] for row in unseen}) < LEAST_PATIENTS:
        chosen_on, unseen = "left out", []
        if learned.left_out is not None and learned.other is not None:
            student = learned.other
            outside = learned.left_out.tolist()
            unseen = [row for row, is_out in zip(train, outside, strict=True) if is_out]
    model = model_records(unseen, student.shape.topics)
    if not model:
        return Trust(chosen_on=chosen_on, calibration={}, routes=())
    heard, _ = student_records(student, unseen)
    fit = fit_temperature(heard, max_error_rate=max_error_rate)
    calibration = {} if fit is None else {name: getattr(fit, name) for name in _CALIBRATED}
    trust = Trust(chosen_on=chosen_on, calibration=calibration, routes=())
    return replace(trust, routes=find_routes(model, cooled(heard, trust.temperature)))
