"""How the feature store keeps a tower's outputs: bytes against precision, one format a store.

| format   | bytes a token of C channels | read as | what is lost of a value x                   |
|----------|-----------------------------|---------|---------------------------------------------|
| float32  | 4 C                         | float32 | nothing                                     |
| float16  | 2 C                         | float16 | x / 2048 at most; refused above 65,504      |
| bfloat16 | 2 C                         | float32 | x / 256 at most; the range of float32       |
| int8     | C + 2                       | float16 | the token's largest channel / 254 at most   |

int8 is absmax quantisation with one scale a token (Dettmers et al. 2022, LLM.int8(), section 2.1:
"row-wise"), `round(x / s)` with `s = max |x| / 127`, rounded to float16 first so that writer and
reader use the same one; its two bytes stand behind the token's channels. The towers hand out
standardised channels, so none of them makes the others of its token coarse. What each format does
to answers: `bench/feature_formats.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.features.format_names import FormatName

Features = npt.NDArray[np.floating[Any]]
"""Tower outputs `(N, P, C)`: N images, P tokens, C channels."""
Stored = npt.NDArray[Any]
"""The same as a store keeps it, `(N, P, W)`."""

_LEVELS = 127
_SCALE_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureFormat:
    """One way to keep features."""

    name: FormatName
    stored: "np.dtype[Any]"
    """Of the values on disk."""
    read_as: "np.dtype[Any]"
    """Of the features that a reader gets."""
    encode: Callable[[Features], Stored]
    """`(N, P, C)` of any float dtype to `(N, P, W)`; what cannot be held becomes non-finite."""
    decode: Callable[[Stored], Features]
    """`(N, P, W)` to `(N, P, C)` of `read_as`."""
    extra: int = 0
    """Stored values a token beside its channels: W = C + extra."""

    def bytes_per_token(self, num_channels: int) -> int:
        """Bytes on disk of one token."""
        return (num_channels + self.extra) * self.stored.itemsize


def _cast(dtype: str) -> Callable[[Features], Stored]:
    return lambda features: np.ascontiguousarray(features, dtype=dtype)


def _same(stored: Stored) -> Features:
    return stored


def _to_bfloat16(features: Features) -> Stored:
    """The upper half of each float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(features, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet = bits >> 16 | 0x40  # a NaN stays one, whatever its lower half
    return np.where(np.isnan(features), quiet, rounded).astype(np.uint16)


def _from_bfloat16(stored: Stored) -> Features:
    return (stored.astype(np.uint32) << 16).view(np.float32)


def _to_int8(features: Features) -> Stored:
    values = np.asarray(features, dtype=np.float32)
    scale = (np.abs(values).max(axis=-1, keepdims=True) / _LEVELS).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)
    levels = np.rint(values / divisor).clip(-_LEVELS, _LEVELS).astype(np.int8)
    return np.concatenate([levels, scale.view(np.int8)], axis=-1)


def _from_int8(stored: Stored) -> Features:
    scale = np.ascontiguousarray(stored[..., -_SCALE_BYTES:]).view(np.float16)
    return stored[..., :-_SCALE_BYTES] * scale


_FLOAT16, _FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)

FORMATS: Mapping[str, FeatureFormat] = {
    each.name: each
    for each in (
        FeatureFormat(
            name="float16",
            stored=_FLOAT16,
            read_as=_FLOAT16,
            encode=_cast("float16"),
            decode=_same,
        ),
        FeatureFormat(
            name="bfloat16",
            stored=np.dtype(np.uint16),
            read_as=_FLOAT32,
            encode=_to_bfloat16,
            decode=_from_bfloat16,
        ),
        FeatureFormat(
            name="float32",
            stored=_FLOAT32,
            read_as=_FLOAT32,
            encode=_cast("float32"),
            decode=_same,
        ),
        FeatureFormat(
            name="int8",
            stored=np.dtype(np.int8),
            read_as=_FLOAT16,
            encode=_to_int8,
            decode=_from_int8,
            extra=_SCALE_BYTES,
        ),
    )
}
"""Every format by name."""
