"""The feature store: frozen tower outputs by image id, written once, read at random.

Place in the flow: the embed stage writes what is `missing`; training and evaluation read by id.
One folder per tower fingerprint (which covers weights, preprocessing, layer and grid) and format
(`sonoray.feature_format`):

```
<root>/<fingerprint>-<format>/meta.json    shape and format, checked by everyone who opens it
            /batch-<ids>.arrow             one committed batch: image_id, features
            /.batch-<ids>-*.partial        a batch being written; no reader sees it
            /seal-<dataset>.json           the batches that hold all of a dataset's images
```

A batch is one uncompressed Arrow IPC file, named by a hash of its ids, synced and then renamed into
place. The rename is the commit: a writer that dies leaves a partial file that nobody reads and that
a later writer removes after a day. Writers share no state, so any number may run: the same batch
from two of them is one file, and an id that stands in two batches is read once. A write that fails
for a moment (`TRANSIENT`) is tried again. Rows are read through a memory map, so a random read
touches only its own pages.

Why this layout: 10,000 images of (36, 256) float16, written in batches of 64 and read 256 at random
through a warm page cache (`bench/feature_store.py`, seven runs on 2 cores shared with other work,
hence the spread):

| layout                 | write, rows/s   | open, ms | read 256 rows, median ms |
|------------------------|-----------------|----------|--------------------------|
| this store             | 4,100 to 13,100 | 29 to 96 | 1.8 to 7.0               |
| Parquet, groups of 64  | 8,500 to 31,500 | 7 to 168 | 20 to 62                 |
| Lance 14               | 3,500 to  8,900 | 30 to 109| 25 to 68                 |

Within one run Lance read 7 to 18 times slower than this store; Parquet must read a group of rows
for one row. The first read of a batch costs about 0.3 ms more, to open it; 4,096 batches stay open,
so keep batches at tens of MB, or at 64 images where these are small. An id in the index takes 220
bytes of memory.
"""

import errno
import functools
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sonoray.errors import ConfigError, DataError
from sonoray.feature_format import FORMATS, Features, FormatName, Stored
from sonoray.stages import write_json

_META = "meta.json"
_BATCH_GLOB = "batch-*.arrow"
TRANSIENT = frozenset(
    {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT}
)
"""Errors of network file systems that pass; `errno` values."""
_RETRY_AFTER_S = (0.1, 1.0, 5.0)
_STALE_S = 24 * 3600.0
"""Age at which a partial file belongs to no living writer (a batch takes seconds)."""
_ID_BYTES = 68
"""A sha256 in hex and its Arrow offset."""


class FeatureStore:
    """Features of one tower, by image id.

    Opening touches nothing on disk, and a store pickles as its five arguments: Ray tasks open it
    for themselves.
    """

    def __init__(
        self,
        root: Path,
        fingerprint: str,
        num_tokens: int,
        num_channels: int,
        kept_as: FormatName = "float16",
    ) -> None:
        """Open the store of one tower; the folder is made by the first write.

        Args:
            root: folder that holds the stores of all towers.
            fingerprint: the tower's fingerprint, which begins the folder's name.
            num_tokens: P, tokens per image.
            num_channels: C, channels per token.
            kept_as: how features are stored, one of `FORMATS`.

        Raises:
            ConfigError: an argument cannot be used.
            DataError: a store with this fingerprint exists and has another shape.
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
        self._args = (root, fingerprint, num_tokens, num_channels, kept_as)
        self._format = FORMATS[kept_as]
        self.fingerprint = fingerprint
        self.folder = root / f"{fingerprint}-{kept_as}"
        self.shape = (num_tokens, num_channels)
        self.dtype = self._format.read_as
        self._meta = {"num_tokens": num_tokens, "num_channels": num_channels, "format": kept_as}
        self._index: dict[str, tuple[str, int]] = {}
        self._indexed: set[str] = set()
        self._swept = False
        self._check_meta()

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, self._args

    def ids(self) -> set[str]:
        """All ids committed by now."""
        self._refresh()
        return set(self._index)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return those of `ids` that are not committed, each once, in order."""
        self._refresh()
        return [image_id for image_id in dict.fromkeys(ids) if image_id not in self._index]

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
        commit = functools.partial(self._commit, ids, values)
        self._persist(commit, f"does not take {values.nbytes:,} bytes")

    def holds(self, ids: Sequence[str]) -> bool:
        """Whether exactly this batch is committed; one look at the disk, however big the store."""
        return (self.folder / f"{_batch_name(ids)}.arrow").is_file()

    def seal(self, dataset: str, num_images: int) -> None:
        """Note that all images of a dataset are committed.

        Args:
            dataset: its content key.
            num_images: its unique images.

        Raises:
            DataError: the disk does not take it.
        """
        batches = sorted(path.name for path in self.folder.glob(_BATCH_GLOB))
        seal = {"num_images": num_images, "batches": batches}
        self._persist(
            functools.partial(write_json, self._seal_of(dataset), seal), "cannot be sealed"
        )

    def num_sealed(self, dataset: str) -> int | None:
        """Images of a sealed dataset; None where it is not, or where a batch is gone since."""
        try:
            seal = json.loads(self._seal_of(dataset).read_text(encoding="utf-8"))
            batches, num_images = set(seal["batches"]), int(seal["num_images"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        there = {path.name for path in self.folder.glob(_BATCH_GLOB)}
        return num_images if batches <= there else None

    def read(self, ids: Sequence[str]) -> Features:
        """Return the features of `ids`, `(N, P, C)` in the store's dtype; ids may repeat.

        Raises:
            DataError: an id was never written, or a batch file is damaged.
        """
        if any(image_id not in self._index for image_id in ids):
            absent = self.missing(ids)
            if absent:
                raise DataError(
                    f"{len(absent)} of {len(ids)} images have no features in {str(self.folder)!r} "
                    f"(first: {absent[0]!r}); run: sonoray embed"
                )
        rows: dict[str, tuple[list[int], list[int]]] = {}
        for position, image_id in enumerate(ids):
            name, row = self._index[image_id]
            positions, sources = rows.setdefault(name, ([], []))
            positions.append(position)
            sources.append(row)
        out: Features = np.empty((len(ids), *self.shape), dtype=self.dtype)
        for name, (positions, sources) in rows.items():
            stored = _map_features(self.folder / name)[sources]
            out[positions] = self._format.decode(stored.reshape(len(sources), self.shape[0], -1))
        return out

    def predict_bytes(self, num_images: int) -> int:
        """Bytes that `num_images` take on disk, within a percent for batches of 100 kB or more."""
        per_image = self.shape[0] * self._format.bytes_per_token(self.shape[1])
        return num_images * (per_image + _ID_BYTES)

    def _check_meta(self) -> None:
        try:
            found = json.loads((self.folder / _META).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = "not readable"
        if found != self._meta:
            raise DataError(
                f"feature store {str(self.folder)!r} holds {found}, asked for {self._meta}; "
                "use the same tower config or another fingerprint"
            )

    def _seal_of(self, dataset: str) -> Path:
        return self.folder / f"seal-{dataset}.json"

    def _persist(self, write: Callable[[], None], refusal: str) -> None:
        """Write to the folder, again where that fails for a moment."""
        for wait_s in (*_RETRY_AFTER_S, None):
            try:
                self._create()
                write()
                return
            except OSError as error:
                if error.errno not in TRANSIENT or wait_s is None:
                    raise DataError(
                        f"feature store {str(self.folder)!r} {refusal} ({error.strerror}); mend "
                        "that and run: sonoray embed (what is committed stays)"
                    ) from None
                time.sleep(wait_s)

    def _create(self) -> None:
        if (self.folder / _META).is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _META, self._meta)

    def _commit(self, ids: Sequence[str], values: Stored) -> None:
        if not self._swept:  # once: it looks at every file of the folder
            _remove_stale(self.folder)
            self._swept = True
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), values.shape[1] * values.shape[2]
        )
        batch = pa.record_batch([pa.array(ids, pa.string()), column], ["image_id", "features"])
        name = _batch_name(ids)
        partial = self.folder / f".{name}-{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.folder / f"{name}.arrow")
        finally:
            partial.unlink(missing_ok=True)

    def _refresh(self) -> None:
        """Index the batches committed since the last look."""
        self._check_meta()
        for path in sorted(self.folder.glob(_BATCH_GLOB)):
            if path.name in self._indexed:
                continue
            ids = _open_batch(path).column("image_id").to_pylist()
            for row, image_id in enumerate(ids):
                self._index.setdefault(image_id, (path.name, row))
            self._indexed.add(path.name)  # last: another thread must not skip a half-indexed file


def _batch_name(ids: Sequence[str]) -> str:
    return f"batch-{hashlib.sha256(chr(0).join(ids).encode()).hexdigest()[:32]}"


def _open_batch(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no stubs
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"feature batch {str(path)!r} cannot be read ({type(error).__name__}); "
            "remove the file and run: sonoray embed"
        ) from None


@functools.lru_cache(maxsize=4096)  # batches never change; the system allows 65,530 maps
def _map_features(path: Path) -> Stored:
    """Memory-mapped features of a batch as they are stored, `(N, P * W)`."""
    column = _open_batch(path).column("features")
    values: Stored = column.values.to_numpy(zero_copy_only=True)
    return values.reshape(len(column), -1)


def _remove_stale(folder: Path) -> None:
    oldest = time.time() - _STALE_S
    for path in folder.glob(".*.partial"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # its writer has just renamed it
            continue
