"""Recognise a perturbation from the towers' own features, and move them to where clean ones lie.

Training-free, after "Perceive and Calibrate" (arXiv 2512.21964), of which the abstract is known: a
vision encoder tells which perturbation an image has, and its features go towards the clean
prototype. How is not known; ours is this. An image is described by mean and standard deviation of
each channel over its tokens, of all towers. A prototype is the mean description of reference images
under one condition, the clean one among them. An image is taken to be under the condition whose
prototype is nearest by Mahalanobis' distance: directions in which images of one condition differ
among themselves, by what they show, count little. (Channel by channel, without that, no clean image
of BUS-BRA was taken for clean.) Its tokens then get the clean prototype's moments in place of that
condition's:

    x' = (x - mean_k) / std_k * std_0 + mean_0

An image that is nearest to the clean prototype stays what it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Features = Mapping[str, npt.NDArray[np.floating]]
    """By tower, (N, P, C)."""

CLEAN = 0
"""Number of the condition that images have by themselves."""
_LEAST = 1e-6
"""Standard deviation below which a channel counts as constant."""


def describe(features: "Features") -> "dict[str, npt.NDArray[np.float64]]":
    """Mean and standard deviation of each channel over the tokens of each image: (N, 2, C)."""
    import numpy as np

    return {
        tower: np.stack(
            [values.mean(axis=1, dtype=np.float64), values.std(axis=1, dtype=np.float64)], axis=1
        )
        for tower, values in features.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Prototypes:
    """What images of M conditions look like to the towers."""

    moments: "Mapping[str, npt.NDArray[np.float64]]"
    """By tower, (M, 2, C): mean and standard deviation over the tokens."""
    whitening: "npt.NDArray[np.float64]"
    """(F, F): makes the covariance of descriptions of one condition, all towers', the identity."""

    @classmethod
    def fit(
        cls,
        described: "Mapping[str, npt.NDArray[np.float64]]",
        conditions: Sequence[int],
    ) -> "Prototypes":
        """Average the descriptions of reference images.

        Args:
            described: by tower, (N, 2, C), as `describe` gives them.
            conditions: that of each image; each of 0..M-1 occurs, and `CLEAN` twice or more.

        Raises:
            ValueError: a condition has no image, or the clean one fewer than two.
        """
        import numpy as np
        from sklearn.covariance import ledoit_wolf  # there may be more channels than images

        numbers = np.asarray(conditions)
        counts = np.bincount(numbers)
        if not counts.all() or counts[CLEAN] < 2:
            raise ValueError(
                f"prototypes need an image of every condition and two clean ones, not "
                f"{counts.tolist()}"
            )
        moments = {
            tower: np.stack(
                [values[numbers == number].mean(axis=0) for number in range(len(counts))]
            )
            for tower, values in described.items()
        }
        within = _flat(described) - _flat(moments)[numbers]
        own = np.maximum(within.std(axis=0), _LEAST)
        covariance, _ = ledoit_wolf(within / own, assume_centered=True)
        lower = np.linalg.cholesky(covariance + _LEAST * np.eye(len(own)))
        return cls(moments=moments, whitening=np.linalg.inv(lower).T / own[:, None])

    def recognise(self, features: "Features") -> "npt.NDArray[np.int64]":
        """Return the condition (N,) whose prototype is nearest to each image."""
        import numpy as np

        images, prototypes = (
            _flat(each) @ self.whitening for each in (describe(features), self.moments)
        )
        away = ((images[:, None] - prototypes[None]) ** 2).sum(axis=2)
        return np.asarray(away.argmin(axis=1))

    def restore(
        self, features: "Features", recognised: "npt.NDArray[np.int64]"
    ) -> "dict[str, npt.NDArray[np.floating]]":
        """Return the features with clean moments, each tower's in its dtype.

        Args:
            features: of N images.
            recognised: the condition (N,) of each.
        """
        import numpy as np

        restored = {}
        for tower, values in features.items():
            mean, deviation = np.moveaxis(self.moments[tower], 1, 0)  # (M, C) each
            scale = deviation[CLEAN] / np.maximum(deviation, _LEAST)
            shift = mean[CLEAN] - mean * scale
            scale[CLEAN], shift[CLEAN] = 1, 0
            moved = values * scale[recognised][:, None] + shift[recognised][:, None]
            restored[tower] = moved.astype(values.dtype)
        return restored


def _flat(moments: "Mapping[str, npt.NDArray[np.float64]]") -> "npt.NDArray[np.float64]":
    """All towers' moments (N, 2, C) behind each other: (N, F)."""
    import numpy as np

    parts = [moments[tower] for tower in sorted(moments)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
