"""Near-duplicate images: by perceptual hash, and where that is unsure by how their detail agrees.

Two exports of one frame (another JPEG quality, another size, a caliper drawn in) differ in every
byte, and would leak from training to test if they came under two patient identifiers. Each image
gets 288 bytes. 32 are a difference hash: scaled to 17 x 16 by area, one bit per horizontal step
that rises. 256 are its detail: scaled to 16 x 16, less the mean of each 4 x 4 block, so that the
shape of a sector, which all pictures of a scanner have, counts for nothing.

Two images are near duplicates where at most `max_distance` bits differ (24), or at most 48 and
their detail correlates by `min_correlation` or more (0.9). Measured:

- 587 breast images of different patients: the closest two differ in 68 bits, no two correlate above
  0.9 even before the block means are removed. Lung frames of convex probes in POCOVID, of different
  patients: as near as 41 bits, and at most 0.871.
- 77 images of BUSI: 13 pairs are one picture by eye, 2 to 35 bits apart, and correlate by 0.933 or
  more; no other pair above 0.628. Two of them differ in more than 24 bits.
- Copies of 135 breast images: found are all of JPEG quality 50, half size, gain x 1.2, gamma 0.7,
  calipers drawn in, a line of text covered, and 2 of 224 pixels cut off each side (66 % by 24 bits
  alone); with 4 pixels cut off 91 %, with 6 18 %.
- 3,079 phantom images of 500 patients: the closest of different patients differ in 55 bits, and 279
  of the 432 pairs within 64 bits correlate above 0.9. Hence 48: a wider search would make one
  patient of many. Among 17,933 images of 3,000 phantom patients two pairs of patients are linked.

All pairs are compared, in blocks that stay in the processor's cache, on every core: 0.4 s of CPU
for 10,000 images and 1.7 s for 30,000, which is 3.7 ns a pair and would be 19 s for 100,000. SciPy
joins the pairs to components; it is imported where it is needed, as every configuration imports
this module.
"""

import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from sonoray.images.decode import Pixels

_ROWS, _STEPS = 16, 16
NUM_BITS = _ROWS * _STEPS
_HASH_BYTES = NUM_BITS // 8
_BLOCK_SIDE = 4
"""Side of the blocks of the 16 x 16 picture whose means are removed."""
_MIN_CONTRAST = 2.0
"""Standard deviation in grey levels below which a picture has nothing to recognise."""

UNSURE_DISTANCE = 48
"""Differing bits up to which a pair may still be one picture, if its detail says so."""
MIN_CORRELATION = 0.9
"""Of the detail of such a pair, where nothing else is set."""

_TILE = (64, 8192)
"""Rows and columns of the pairs that are compared at once: 4 MB of bits, 0.5 MB of counts."""
_MOST_CHECKED = 65_536
"""Pairs whose detail is compared at once: 128 MB."""
_MOST_PAIRS = 1_000_000
"""Pairs that wait before components are joined: a cine of 2,000 like frames has 2 million."""

Words = npt.NDArray[np.uint64]
"""Hashes as `(N, 4)` 64-bit words."""
Pairs = npt.NDArray[np.int64]
"""Numbers of two nodes that are connected, `(N, 2)`."""


def perceptual_hash(array: Pixels) -> bytes | None:
    """Return the 256-bit difference hash of a uint8 `(H, W)` or `(H, W, 3)` image, and its detail.

    None for a picture without structure (a black frame): all of those look alike and are no
    evidence that two patients are one.
    """
    grey = Image.fromarray(array).convert("L")
    small = np.asarray(grey.resize((_STEPS + 1, _ROWS), Image.Resampling.BOX), dtype=np.int16)
    if small.std() < _MIN_CONTRAST:
        return None
    bits: bytes = np.packbits(small[:, 1:] > small[:, :-1]).tobytes()
    return bits + _detail(np.asarray(grey.resize((_STEPS, _ROWS), Image.Resampling.BOX)))


def _detail(small: Pixels) -> bytes:
    """A `(16, 16)` picture less the means of its blocks, scaled to int8, as 256 bytes."""
    blocks = small.astype(np.float32).reshape(
        _ROWS // _BLOCK_SIDE, _BLOCK_SIDE, _STEPS // _BLOCK_SIDE, _BLOCK_SIDE
    )
    detail = (blocks - blocks.mean(axis=(1, 3), keepdims=True)).ravel()
    largest = float(np.abs(detail).max())
    scaled: bytes = (
        np.rint(detail * (127 / largest) if largest else detail).astype(np.int8).tobytes()
    )
    return scaled


def hash_bits(value: bytes) -> bytes:
    """The difference hash alone, without the detail."""
    return value[:_HASH_BYTES]


def hash_distance(one: bytes, other: bytes) -> int:
    """Bits in which two hashes differ."""
    a, b = (int.from_bytes(hash_bits(value)) for value in (one, other))
    return (a ^ b).bit_count()


def describe_rule(max_distance: int, min_correlation: float) -> str:
    """What counts as a near duplicate, in words."""
    rule = f"hashes that differ in at most {max_distance} of {NUM_BITS} bits"
    if not _is_unsure(max_distance, min_correlation):
        return rule
    return f"{rule}, or in at most {UNSURE_DISTANCE} with a correlation of {min_correlation:g}"


def group_near_duplicates(
    hashes: Sequence[bytes | None], max_distance: int, min_correlation: float = MIN_CORRELATION
) -> list[int]:
    """Label images so that near duplicates, also through others, share a label.

    Args:
        hashes: from `perceptual_hash`; a None matches nothing.
        max_distance: largest number of differing bits, 0 to 255; with 0, equal hashes alone.
        min_correlation: from which detail counts where more bits differ; with 1 it does not.

    Returns:
        One label per image: the position of the first image of its group.
    """
    return connected_labels(len(hashes), near_pairs(hashes, max_distance, min_correlation))


def near_pairs(
    hashes: Sequence[bytes | None], max_distance: int, min_correlation: float = MIN_CORRELATION
) -> Iterator[Pairs]:
    """Yield the positions of near duplicates, in pieces; see `group_near_duplicates`.

    Of images with equal hashes each is paired with the first one alone, and that one with others.
    """
    place: dict[bytes, int] = {}
    same = array("q")
    for position, value in enumerate(hashes):
        if value:
            same.extend((place.setdefault(hash_bits(value), position), position))
    if not place:
        return
    yield np.array(same, np.int64).reshape(-1, 2)
    unique = np.fromiter(place.values(), np.int64, len(place))
    words = np.frombuffer(b"".join(place), np.uint64).reshape(-1, NUM_BITS // 64)
    del place, same
    is_unsure = _is_unsure(max_distance, min_correlation)
    furthest = UNSURE_DISTANCE if is_unsure else max_distance
    details = _details(hashes, unique) if is_unsure else None
    for pairs, distances in _close_pairs(words, furthest):
        sure = distances <= max_distance
        if details is not None:
            unsure = np.flatnonzero(~sure)
            for start in range(0, len(unsure), _MOST_CHECKED):
                checked = unsure[start : start + _MOST_CHECKED]
                sure[checked] = _agree(details, pairs[checked], min_correlation)
        if sure.any():
            yield unique[pairs[sure]]


def _is_unsure(max_distance: int, min_correlation: float) -> bool:
    """Whether pairs beyond the distance are looked at."""
    return 0 < max_distance < UNSURE_DISTANCE and min_correlation < 1


def _details(
    hashes: Sequence[bytes | None], positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """The detail of `(N,)` positions, `(N, 256)`; where it lacks, zeros, which agree with none."""
    details = np.zeros((len(positions), NUM_BITS), np.int8)
    for row, position in zip(details, positions, strict=True):
        if detail := (hashes[position] or b"")[_HASH_BYTES:]:
            row[:] = np.frombuffer(detail, np.int8)
    return details


def _agree(
    details: npt.NDArray[np.int8], pairs: Pairs, min_correlation: float
) -> npt.NDArray[np.bool_]:
    """Whether the detail of each of `(N, 2)` pairs correlates, `(N,)`; block means are zero."""
    one, other = (details[pairs[:, side]].astype(np.float32) for side in (0, 1))
    products = np.einsum("ni,ni->n", one, other)
    lengths = np.einsum("ni,ni->n", one, one) * np.einsum("ni,ni->n", other, other)
    agree: npt.NDArray[np.bool_] = (lengths > 0) & (products >= min_correlation * np.sqrt(lengths))
    return agree


def connected_labels(count: int, pairs: Iterable[Pairs]) -> list[int]:
    """Connected components of `count` nodes: each node's label is the smallest of its component.

    Args:
        count: number of nodes.
        pairs: the edges, in pieces of `(N, 2)` int64.
    """
    labels = np.arange(count)
    waiting: list[Pairs] = []
    num_waiting = 0
    for piece in pairs:
        waiting.append(piece)
        num_waiting += len(piece)
        if num_waiting > _MOST_PAIRS:
            labels, waiting, num_waiting = _joined(labels, waiting), [], 0
    found: list[int] = _joined(labels, waiting).tolist()
    return found


def _joined(labels: npt.NDArray[np.int64], pairs: Sequence[Pairs]) -> npt.NDArray[np.int64]:
    """Join the components of `labels` that pairs connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return labels
    nodes = np.arange(len(labels))
    edges = np.concatenate([np.stack([nodes, labels], axis=1), *pairs])
    values = np.ones(len(edges), bool)
    graph = coo_array((values, (edges[:, 0], edges[:, 1])), shape=(len(nodes), len(nodes)))
    num_components, component = connected_components(graph, directed=False)
    smallest = np.full(num_components, len(nodes))
    np.minimum.at(smallest, component, nodes)
    joined: npt.NDArray[np.int64] = smallest[component]
    return joined


def _close_pairs(hashes: Words, max_distance: int) -> Iterator[tuple[Pairs, npt.NDArray[np.uint8]]]:
    """Yield pairs of rows of `(N, 4)` uint64 hashes that differ in at most `max_distance` bits.

    No two rows are equal. Each pair comes once, the smaller row first, with the number of its bits.
    """
    words = np.ascontiguousarray(hashes.T)
    starts = range(0, len(hashes), _TILE[0])

    def compare(start: int) -> list[tuple[Pairs, npt.NDArray[np.uint8]]]:
        return list(_close_in_rows(words, start, max_distance))

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="near") as pool:
        yield from itertools.chain.from_iterable(pool.map(compare, starts))


def _close_in_rows(
    words: npt.NDArray[np.uint64], start: int, max_distance: int
) -> Iterator[tuple[Pairs, npt.NDArray[np.uint8]]]:
    """The close pairs whose smaller row is in one block; `words` is `(4, N)`."""
    rows = words[:, start : start + _TILE[0], None]
    for column in range(start, words.shape[1], _TILE[1]):
        columns = words[:, None, column : column + _TILE[1]]
        distances = np.bitwise_count(rows[0] ^ columns[0])
        for one, other in zip(rows[1:], columns[1:], strict=True):
            distances += np.bitwise_count(one ^ other)
        # rows are unique, so 0 is the row itself, or the 256 of its opposite, which wrap to it
        close = np.argwhere(distances - 1 < max_distance)
        close = close[close[:, 0] + start < close[:, 1] + column]
        if len(close):
            yield close + np.array([start, column]), distances[close[:, 0], close[:, 1]]
