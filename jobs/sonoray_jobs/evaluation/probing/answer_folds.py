"""Folds over patients by which a classifier's penalty is chosen.

Patients may have studies with different answers, so no split of patients promises every answer on
both sides. What learns needs all of them, and a fold without one is not taken. What is judged may
lack some: its log-likelihood is told which answers there are.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

FOLDS = 5

Places = npt.NDArray[np.int64]


def answer_folds(
    truths: npt.NDArray[Any], patients: npt.NDArray[np.str_], seed: int
) -> list[tuple[Places, Places]]:
    """Places to learn from and to judge, of like shares of the answers, a patient in one fold.

    Args:
        truths: (N,) answers.
        patients: (N,) of each the patient.
        seed: of the folds.

    Returns:
        As many folds as the rarest answer has patients, at most `FOLDS`, and fewer where what is
        learned from would lack an answer; none where two would, or where there is one answer.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    answers = np.unique(truths)
    fewest = min(len(np.unique(patients[truths == answer])) for answer in answers)
    for number in range(min(FOLDS, fewest) if len(answers) > 1 else 0, 1, -1):
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        splits = list(folds.split(truths, truths, groups=patients))
        if all(len(np.unique(truths[learned])) == len(answers) for learned, _ in splits):
            return splits
    return []


def log_likelihood(truths: npt.NDArray[Any]) -> Any:  # noqa: ANN401 - scikit-learn's scorer
    """A scorer of folds that may lack an answer: `neg_log_loss` is NaN on them."""
    from sklearn.metrics import log_loss, make_scorer

    return make_scorer(
        log_loss,
        response_method="predict_proba",
        greater_is_better=False,
        labels=np.unique(truths),
    )
