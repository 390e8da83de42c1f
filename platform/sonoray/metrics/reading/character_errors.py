"""Character errors of a text that was read: insertions, deletions and substitutions.

Texts are compared after `normalise` (full-width and half-width signs are the same, blanks do not
count), so that what is judged is what was read, in its order. The rate over many pages is the sum
of errors over the sum of true characters; it may be above 1.
"""

from collections.abc import Sequence

import numpy as np

from sonoray.metrics.resampling import Floats, Metric
from sonoray.metrics.text import normalise


def num_errors(truth: str, read: str) -> tuple[int, int]:
    """Errors of a text, and characters of the true one, both normalised."""
    wanted = normalise(truth)
    return edit_distance(wanted, normalise(read)), len(wanted)


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance.

    Bit-parallel (Myers, Journal of the ACM 46(3), 1999, in Hyyroe's form): a column of the table
    is two integers, a step a few operations.
    """
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for at, sign in enumerate(first):
        places[sign] = places.get(sign, 0) | 1 << at
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = full, 0, len(first)
    for sign in second:
        match = places.get(sign, 0)
        zero = ((((match & up) + up) ^ up) | match | down) & full
        right, left = (down | ~(zero | up)) & full, up & zero
        distance += bool(right & last) - bool(left & last)
        right = (right << 1 | 1) & full
        left = left << 1 & full
        up, down = (left | ~(zero | right)) & full, right & zero
    return distance


def ratio_of_sums(counts: Sequence[tuple[int, int]]) -> Metric:
    """Sum of the first over the sum of the second, of weighted texts: errors over characters."""
    wrong, total = np.array(counts, np.float64).reshape(-1, 2).T

    def metric(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ wrong) / (weights @ total))

    return metric
