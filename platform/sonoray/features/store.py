"""The feature store: frozen tower outputs by image id, written once, read at random.

Place in the flow: the embed stage writes what is `missing`; training and evaluation read by id.
One place per tower fingerprint (which covers weights, preprocessing, layer and grid) and format
(`sonoray.features.formats`), in a folder or an object store (`sonoray.features.places`):

```
<root>/<fingerprint>-<format>/meta.json    shape and format, checked by everyone who opens it; of a
                                           tower that computes in bfloat16 `-of-bfloat16` follows
            /batch-<ids>.arrow             one committed batch: image_id, features
            /seal-<dataset>.json           the batches that hold all of a dataset's images
```

A batch is named by a hash of its ids and committed as a whole. Writers share no state, so any
number may run: the same batch from two of them is one file, and an id that stands in two batches is
read once. A write that fails for a moment (`TRANSIENT`) is tried again.

Why this layout: 10,000 images of (36, 256) float16, written in batches of 64 by one process and by
four, and read 256 at random (`bench/feature_store.py`, 2 cores; medians of five runs in a folder,
through a warm page cache, and of three on a server of the S3 protocol on the same machine, which
adds no distance but takes its share of the cores):

| layout                | where  | rows/s | by four | open, ms | read 256, ms |
|-----------------------|--------|--------|---------|----------|--------------|
| this store            | folder | 13,600 |  12,400 |       29 |          2.1 |
| Parquet, groups of 64 | folder | 33,200 |  13,400 |       35 |           40 |
| Lance 14              | folder |  8,930 |   7,060 |       29 |           16 |
| this store            | S3     |  3,110 |   3,700 |      147 |          132 |
| Parquet, groups of 64 | S3     | 16,600 |   7,190 |      242 |          202 |
| Lance 14              | S3     |  2,370 |   2,540 |      291 |          146 |

All take 18.5 to 18.6 kB a row. Parquet must read a group of rows for one row, and has its rows
only when a file of hundreds of batches is closed, so that a killed writer loses them all. Reading
is what training waits for. The first read of a batch costs about 0.3 ms more, to open it; 4,096
batches stay open, so keep batches at tens of MB, or at 64 images where these are small. An id in
the index takes 24 bytes of memory (`sonoray.features.id_index`).
"""

import errno
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.errors import ConfigError, DataError, JobFailedError
from sonoray.features.format_names import FormatName
from sonoray.features.formats import FORMATS, Features, Stored
from sonoray.features.id_index import IdIndex
from sonoray.features.places import OBJECT_STORE, FeatureFiles, FolderFiles, ObjectFiles

_META = "meta.json"
TRANSIENT = frozenset(
    {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT}
)
"""Errors of network file systems that pass; `errno` values. S3's client retries by itself."""
_RETRY_AFTER_S = (0.1, 1.0, 5.0)
_ID_BYTES = 68
"""A sha256 in hex and its Arrow offset."""


class FeatureStore:
    """Features of one tower, by image id.

    Opening writes nothing, and a store pickles as its arguments: Ray tasks open it for
    themselves.
    """

    def __init__(
        self,
        root: Path | str,
        fingerprint: str,
        num_tokens: int,
        num_channels: int,
        kept_as: FormatName = "float16",
        computed_in: str = "float32",
    ) -> None:
        """Open the store of one tower; its place is made by the first write.

        Args:
            root: what holds the stores of all towers, a folder or `s3://bucket/prefix`.
            fingerprint: the tower's fingerprint, which begins the name of its place.
            num_tokens: P, tokens per image.
            num_channels: C, channels per token.
            kept_as: how features are stored, one of `FORMATS`.
            computed_in: what the tower multiplies in; features of another precision are others, and
                lie elsewhere.

        Raises:
            ConfigError: an argument cannot be used.
            DataError: a store with this fingerprint exists and has another shape, or its place
                cannot be reached. Where that happens later, methods raise `JobFailedError`.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", fingerprint):
            raise ConfigError(
                f"fingerprint {fingerprint!r} cannot name a folder; use letters, digits, . _ -"
            )
        if num_tokens < 1 or num_channels < 1 or kept_as not in FORMATS:
            raise ConfigError(
                f"feature store of ({num_tokens}, {num_channels}) {kept_as} makes no sense; "
                f"both sizes must be positive and the format one of {', '.join(FORMATS)}"
            )
        self._args = (root, fingerprint, num_tokens, num_channels, kept_as, computed_in)
        self._format = FORMATS[kept_as]
        self.fingerprint = fingerprint
        self.shape = (num_tokens, num_channels)
        self.dtype = self._format.read_as
        self._meta = {"num_tokens": num_tokens, "num_channels": num_channels, "format": kept_as}
        self._index = IdIndex()
        self._indexed: set[str] = set()
        self.computed_in = computed_in
        lowered = "" if computed_in == "float32" else f"-of-{computed_in}"
        self._files = self._place(root, f"{fingerprint}-{kept_as}{lowered}")
        self._made = False
        self._made = self._check_meta()

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, self._args

    @property
    def place(self) -> str:
        """The folder or the URI that holds this tower's batches."""
        return self._files.name

    def ids(self) -> set[str]:
        """All ids committed by now; read from the batches, since the index holds none."""
        self._refresh()
        with self._reading():
            return {each for ids in self._files.read_ids(sorted(self._indexed)) for each in ids}

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return those of `ids` that are not committed, each once, in order."""
        self._refresh()
        unique = list(dict.fromkeys(ids))
        places = self._index.find(unique)
        return [each for each, place in zip(unique, places, strict=True) if place is None]

    def make(self) -> None:
        """Write to its place, so that what refuses it shows before anything is computed.

        Raises:
            DataError: it cannot be made.
        """
        self._made = False
        self._persist(lambda: None, "cannot be made")

    def write(self, ids: Sequence[str], features: Features) -> None:
        """Commit one batch.

        Args:
            ids: N image ids.
            features: `(N, P, C)`; any float dtype, stored in the store's format.

        Raises:
            DataError: the shape does not fit, a value is not finite in the store's format, or the
                disk does not take it.
        """
        if features.shape != (len(ids), *self.shape):
            raise DataError(
                f"features of shape {features.shape} do not fit {len(ids)} ids of a store of "
                f"{self.shape}; embed with the tower that the store was made for"
            )
        if not ids:
            return
        values = self._encode(ids, features)
        commit = functools.partial(self._files.commit, _batch_name(ids), ids, values)
        self._persist(commit, f"does not take {values.nbytes:,} bytes")

    def as_read(self, features: Features) -> Features:
        """Return features as they would be read had they been written, `(N, P, C)`.

        Raises:
            DataError: a value is not finite in the store's format.
        """
        numbers = [str(number) for number in range(len(features))]
        return self._format.decode(self._encode(numbers, features))

    def holds(self, ids: Sequence[str]) -> bool:
        """Whether exactly this batch is committed; one look, however big the store."""
        with self._reading():
            return self._files.has(_batch_name(ids))

    def seal(self, dataset: str, num_images: int) -> None:
        """Note that all images of a dataset are committed.

        Args:
            dataset: its content key.
            num_images: its unique images.

        Raises:
            DataError: the disk does not take it.
        """
        with self._reading():
            seal = {"num_images": num_images, "batches": sorted(self._files.batches())}
        self._persist(
            functools.partial(self._files.write_json, _seal_name(dataset), seal), "cannot be sealed"
        )

    def num_sealed(self, dataset: str) -> int | None:
        """Images of a sealed dataset; None where it is not, or where a batch is gone since."""
        with self._reading():
            try:
                seal = self._files.read_json(_seal_name(dataset))
                batches, num_images = set(seal["batches"]), int(seal["num_images"])
            except (ValueError, KeyError, TypeError):
                return None
            return num_images if batches <= self._files.batches() else None

    def read(self, ids: Sequence[str]) -> Features:
        """Return the features of `ids`, `(N, P, C)` in the store's dtype; ids may repeat.

        Raises:
            DataError: an id was never written, or a batch file is damaged.
        """
        places = self._index.find(ids)
        if None in places:
            if absent := self.missing(ids):
                raise DataError(
                    f"{len(absent)} of {len(ids)} images have no features in {self.place!r} "
                    f"(first: {absent[0]!r}); run: sonoray embed"
                )
            places = self._index.find(ids)
        positions: dict[str, list[int]] = {}
        wanted: dict[str, list[int]] = {}
        for position, place in enumerate(places):
            assert place is not None
            batch, row = place
            positions.setdefault(batch, []).append(position)
            wanted.setdefault(batch, []).append(row)
        out: Features = np.empty((len(ids), *self.shape), dtype=self.dtype)
        with self._reading():
            for taken, rows in zip(positions.values(), self._files.read_rows(wanted), strict=True):
                stored = rows.reshape(len(taken), self.shape[0], -1)
                out[taken] = self._format.decode(stored)
        return out

    def predict_bytes(self, num_images: int) -> int:
        """Bytes that `num_images` take on disk, within a percent for batches of 100 kB or more."""
        per_image = self.shape[0] * self._format.bytes_per_token(self.shape[1])
        return num_images * (per_image + _ID_BYTES)

    def free_bytes(self) -> int | None:
        """Bytes that its place still takes; None for an object store."""
        return self._files.free_bytes()

    def _encode(self, ids: Sequence[str], features: Features) -> Stored:
        """Bring features into the store's format, and refuse what it cannot hold."""
        with np.errstate(over="ignore", invalid="ignore"):  # what that makes is refused below
            values = self._format.encode(features)
            finite = np.isfinite(self._format.decode(values)).all(axis=(1, 2))
        if not finite.all():
            limit = float(np.finfo(self.dtype).max)
            raise DataError(
                f"features of image {ids[int(finite.argmin())]!r} are not finite as "
                f"{self._format.name} (largest {limit:g}); store them as float32 or look at the "
                "tower"
            )
        return values

    def _place(self, root: Path | str, name: str) -> FeatureFiles:
        if not str(root).startswith(OBJECT_STORE):
            return FolderFiles(Path(root) / name)
        row = (self.shape[1] + self._format.extra) * self.shape[0]
        return ObjectFiles(f"{str(root).rstrip('/')}/{name}", row, self._format.stored)

    def _check_meta(self) -> bool:
        """Whether the store exists."""
        with self._reading():
            try:
                found = self._files.read_json(_META)
            except (json.JSONDecodeError, UnicodeDecodeError):
                found = "not readable"
        if found not in (None, self._meta):
            raise DataError(
                f"feature store {self.place!r} holds {found}, asked for {self._meta}; "
                "use the same tower config or another fingerprint"
            )
        return found is not None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # where it was there before, the job failed, and not its settings
            raise (JobFailedError if self._made else DataError)(
                f"feature store {self.place!r} cannot be read ({_reason(error)}); check that it "
                "can be reached, and your rights there; what is committed stays"
            ) from None

    def _persist(self, write: Callable[[], None], refusal: str) -> None:
        """Write to the store's place, again where that fails for a moment."""
        for wait_s in (*_RETRY_AFTER_S, None):
            try:
                if not self._made:
                    self._files.write_json(_META, self._meta)
                    self._made = True
                write()
                return
            except OSError as error:
                if error.errno not in TRANSIENT or wait_s is None:
                    raise DataError(
                        f"feature store {self.place!r} {refusal} ({_reason(error)}); mend "
                        "that and run: sonoray embed (what is committed stays)"
                    ) from None
                time.sleep(wait_s)

    def _refresh(self) -> None:
        """Index the batches committed since the last look."""
        self._check_meta()
        with self._reading():
            new = sorted(self._files.batches() - self._indexed)
            self._index.add(zip(new, self._files.read_ids(new), strict=True))
            self._indexed.update(new)  # last: another thread must not skip a half-indexed one


def _batch_name(ids: Sequence[str]) -> str:
    return f"batch-{hashlib.sha256(chr(0).join(ids).encode()).hexdigest()[:32]}"


def _seal_name(dataset: str) -> str:
    return f"seal-{dataset}.json"


_REFUSED_KEYS = {
    "ACCESS_DENIED": "its server refuses the key of AWS_ACCESS_KEY_ID, or gives it no rights",
    "INVALID_ACCESS_KEY_ID": "its server does not know the key id in AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "AWS_SECRET_ACCESS_KEY is not the secret of AWS_ACCESS_KEY_ID",
}
"""By S3's code: what a person can mend. Reading with a wrong key id gives `ACCESS_DENIED`."""


def _reason(error: OSError) -> str:
    """The system's words; those of an object store stand within pyarrow's."""
    told = re.search(r"AWS Error ((\w+).*?)(?: \(Request ID: \S+\))?$", str(error))
    if told is None:
        return error.strerror or str(error)
    return _REFUSED_KEYS.get(told[2], told[1])
