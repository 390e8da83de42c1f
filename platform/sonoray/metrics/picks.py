"""Whether the image that a sampler put first shows the finding: the one definition of it.

An evaluation's headline, the rates of the attention score, an ablation's table and the benches all
count the same way. A pick is judged where it could be right and could be wrong by the sampler's own
doing: some image of the study is known to show the finding, and the language model did not get to
see all images. Who keeps every image picks none. An image of which nobody knows counts as one that
does not show it. Beside the rate stands what a random pick of the same studies would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sonoray.metrics.resampling import Bootstrap, Estimate, estimate, mean_metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """The image that a sampler put first for one question."""

    patient_key: str
    showing: Sequence[int]
    """For each image of the study 1 or 0, whether it shows the finding; -1 where nobody knows."""
    num_seen: int
    """Images that the language model saw."""
    first: int
    """Position of the image that was put first."""

    @property
    def is_judged(self) -> bool:
        """Whether it counts; see the module's docstring."""
        return 1 in self.showing and self.num_seen < len(self.showing)

    @property
    def hit(self) -> float:
        """1 where the image put first shows the finding, else 0."""
        return float(self.showing[self.first] == 1)

    @property
    def chance(self) -> float:
        """How often a random image of the study shows it."""
        return list(self.showing).count(1) / len(self.showing)


def hit_rate(picks: Sequence[Pick], bootstrap: Bootstrap) -> Estimate | None:
    """Share of the judged picks that show the finding; None where none is judged."""
    judged = [pick for pick in picks if pick.is_judged]
    return _mean([pick.hit for pick in judged], judged, bootstrap)


def chance_rate(picks: Sequence[Pick], bootstrap: Bootstrap) -> Estimate | None:
    """What random picks in the same studies would have; None where no pick is judged."""
    judged = [pick for pick in picks if pick.is_judged]
    return _mean([pick.chance for pick in judged], judged, bootstrap)


def _mean(values: Sequence[float], picks: Sequence[Pick], bootstrap: Bootstrap) -> Estimate | None:
    shares = mean_metric(np.array(values, dtype=np.float64))
    return estimate(shares, [pick.patient_key for pick in picks], bootstrap)
