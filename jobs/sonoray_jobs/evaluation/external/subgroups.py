"""Which groups of studies are judged apart: by scanner, organ, site, sex, year, any label.

Every label of 2 to 12 values is taken where nobody says which; of `study_date` the year. One of
more values, or of as many as studies (an age, a size), is a measurement. A label that is the truth
of a topic is left out, unless it says what was examined and how: then it groups the other topics.
What is left out is named with the reason.
"""

from collections.abc import Collection, Mapping, Sequence

from sonoray.errors import DataError
from sonoray.study.contract import STUDY_DATE_LABEL, Study

YEAR = "year"
"""The group that `study_date` gives."""
MOST_VALUES = 12
OF_EXAMINATION = frozenset(
    {"body_part", "device", "manufacturer", "modality", "model", "organ", "scanner", "sex", "site"}
)
"""Labels that may group studies although a topic asks for them."""


def choose_groups(
    studies: Sequence[Study], *, wanted: Sequence[str], truths: Collection[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the groups of studies by label, and why other labels give none.

    Args:
        studies: those that are judged.
        wanted: `external.breakdown`.
        truths: labels that hold the truth of a topic.

    Returns:
        By label: the value of each study that has one, by study id. And by label the reason why it
        is left out.

    Raises:
        DataError: a label that is wanted is unknown.
    """
    values: dict[str, dict[str, str]] = {}
    for study in studies:
        for label, value in _labels(study).items():
            values.setdefault(label, {})[study.study_id] = value
    if wanted:
        if unknown := [label for label in wanted if label not in values]:
            raise DataError(
                f"external.breakdown {unknown}: no judged study has such a label; there are "
                f"{', '.join(sorted(values)) or 'none'}"
            )
        return {label: values[label] for label in wanted}, {}
    chosen, left_out = {}, {}
    for label in sorted(values):
        number = len(set(values[label].values()))
        if label in truths and label not in OF_EXAMINATION:
            left_out[label] = "it is the truth of a topic"
        elif not 2 <= number <= min(MOST_VALUES, max(2, len(values[label]) // 2)):
            left_out[label] = f"values: {number}, of {len(values[label])} studies"
        else:
            chosen[label] = values[label]
    return chosen, left_out


def _labels(study: Study) -> Mapping[str, str]:
    """The study's labels; the date as its year."""
    labels = {label: value for label, value in study.labels.items() if value}
    date = labels.pop(STUDY_DATE_LABEL, "")
    return labels | ({YEAR: date[:4]} if date[:4].isdigit() else {})
