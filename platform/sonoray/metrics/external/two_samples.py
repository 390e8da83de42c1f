"""One model on two samples of patients: how much worse is it elsewhere, and how sure is that.

The patients of the two samples are others, so each is resampled by itself and the interval is that
of the difference of the draws. (`sonoray.metrics.paired` is for two models on the same questions.)
A difference mixes what the model lost with what the samples are: other cases, other shares of the
options, other truths.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from sonoray.metrics.paired import Difference, two_sided_p
from sonoray.metrics.resampling import Bootstrap, Metric, interval, resample


def independent_differences(
    first: Mapping[str, Metric],
    first_patients: Sequence[Hashable],
    second: Mapping[str, Metric],
    second_patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Return second minus first for each metric that both samples define.

    Args:
        first: metrics of the first sample's answers.
        first_patients: the patient of each of these.
        second: metrics of the second sample's answers.
        second_patients: the patient of each of these.
        bootstrap: how differences are resampled; the second sample's draws have the next seed.
    """
    values = {
        name: (_of_all(first[name], first_patients), _of_all(second[name], second_patients))
        for name in first
        if name in second
    }
    names = [name for name, both in values.items() if not np.isnan(both).any()]
    other = bootstrap.model_copy(update={"seed": bootstrap.seed + 1})
    before = resample({name: first[name] for name in names}, first_patients, bootstrap)
    after = resample({name: second[name] for name in names}, second_patients, other)
    found = {}
    for name in names:
        one, two = values[name]
        alone = not (before[name].size and after[name].size)  # one patient has no draws
        draws = np.empty(0) if alone else after[name] - before[name]
        low, high = interval(draws, bootstrap.confidence)
        found[name] = Difference(
            first=one,
            second=two,
            value=two - one,
            low=low,
            high=high,
            p_value=two_sided_p(draws),
            num_undefined=int(np.isnan(draws).sum()),
        )
    return found


def _of_all(metric: Metric, patients: Sequence[Hashable]) -> float:
    return float(metric(np.ones((1, len(patients))))[0])
