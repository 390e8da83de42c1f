"""Where the batches of a feature store lie: in a folder, or below a prefix of an object store.

Place in the flow: `sonoray.features.store` decides what is kept and finds it by id; this module
writes and reads it. A batch is one uncompressed Arrow IPC file of `image_id` and `features`; small
JSON files stand beside the batches. What is written is there wholly or not at all, and any number
of writers may run:

- **Folder.** A file is written under another name, synced, and renamed into place. Rows are read
  through a memory map, so that a random read touches only its own pages.
- **Object store** (`s3://`, through pyarrow). An object is there when its upload has ended. The
  batch `batch-x.arrow` counts from the moment that `batch-x.json` is there, with its ids, its size
  and the place where its features begin: a reader's index takes these few kB, a read the rows that
  it wants, those that lie near each other in one request, `_REQUESTS` at a time. Keys and region
  come from where every S3 client looks for them (`AWS_ACCESS_KEY_ID`, ..., `~/.aws`), the endpoint
  from `AWS_ENDPOINT_URL` alone, none of them from a configuration.
"""

import _thread
import functools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from sonoray.errors import DataError
from sonoray.features.formats import Stored
from sonoray.files.json_files import write_json

OBJECT_STORE = "s3://"
_STALE_S = 24 * 3600.0
"""Age at which a partial file belongs to no living writer (a batch takes seconds)."""
_REQUESTS = 24
"""At a time; pyarrow keeps 25 connections."""
_POLL_S = 0.01
_GAP_BYTES = 256 * 1024
"""What is read in vain rather than asked around: a request costs an object store 10 ms and more, in
which a connection moves a few hundred kB."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class FeatureFiles(Protocol):
    """The place of one store. What the system refuses is an `OSError`."""

    name: str
    """For messages: the folder or the URI."""

    def batches(self) -> set[str]:
        """Names of all committed batches."""

    def has(self, batch: str) -> bool:
        """Whether a batch is committed; one look, however big the store."""

    def commit(self, batch: str, ids: Sequence[str], values: Stored) -> None:
        """Write a batch of N ids and values `(N, P, W)`; the same batch again changes nothing."""

    def read_ids(self, batches: Sequence[str]) -> Iterator[list[str]]:
        """Ids of each batch, in its order.

        Raises:
            DataError: a batch is damaged.
        """

    def read_rows(self, wanted: Mapping[str, Sequence[int]]) -> Iterator[Stored]:
        """By batch, the rows that are wanted of it: `(n, P * W)`.

        Raises:
            DataError: a batch is damaged.
        """

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Read a small file; None where there is none.

        Raises:
            ValueError: it is no JSON.
        """

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Write a small file; a reader sees the old one or the new one."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where nobody can tell."""


class FolderFiles:
    """Batches in a folder, which the first write makes."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._swept = False

    def batches(self) -> set[str]:
        """See `FeatureFiles`."""
        return {path.stem for path in self._folder.glob("batch-*.arrow")}

    def has(self, batch: str) -> bool:
        """See `FeatureFiles`."""
        return self._path(batch).is_file()

    def commit(self, batch: str, ids: Sequence[str], values: Stored) -> None:
        """See `FeatureFiles`."""
        if not self._swept:  # once: it looks at every file of the folder
            _remove_stale(self._folder)
            self._swept = True
        partial = self._folder / f".{batch}-{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                _write_arrow(file, ids, values)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._path(batch))
        finally:
            partial.unlink(missing_ok=True)

    def read_ids(self, batches: Sequence[str]) -> Iterator[list[str]]:
        """See `FeatureFiles`."""
        for batch in batches:
            yield _open_batch(self._path(batch)).column("image_id").to_pylist()

    def read_rows(self, wanted: Mapping[str, Sequence[int]]) -> Iterator[Stored]:
        """See `FeatureFiles`."""
        for batch, rows in wanted.items():
            yield _map_features(self._path(batch))[list(rows)]

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """See `FeatureFiles`."""
        try:
            return json.loads((self._folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """See `FeatureFiles`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / name, value)

    def free_bytes(self) -> int | None:
        """See `FeatureFiles`."""
        there = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        return shutil.disk_usage(there).free

    def _path(self, batch: str) -> Path:
        return self._folder / f"{batch}.arrow"


class ObjectFiles:
    """Batches below a prefix of an object store; asks it nothing before the first call."""

    def __init__(self, uri: str, width: int, dtype: "np.dtype[Any]") -> None:
        """Name the place.

        Args:
            uri: `s3://bucket/prefix`.
            width: P * W, values of a row.
            dtype: of the values.
        """
        self.name = uri
        self._width, self._dtype = width, dtype
        self._row_bytes = width * dtype.itemsize
        self._layouts: dict[str, tuple[int, int]] = {}
        """By batch: where its features begin, and its size, in bytes."""
        self._open = functools.lru_cache(maxsize=4096)(self._open_batch)

    def batches(self) -> set[str]:
        """See `FeatureFiles`."""
        from pyarrow.fs import FileSelector

        system, prefix = self._system
        found = system.get_file_info(FileSelector(prefix, allow_not_found=True))
        names = (Path(info.base_name) for info in found)
        return {name.stem for name in names if name.match("batch-*.json")}

    def has(self, batch: str) -> bool:
        """See `FeatureFiles`."""
        system, prefix = self._system
        return bool(system.get_file_info(f"{prefix}/{batch}.json").is_file)

    def commit(self, batch: str, ids: Sequence[str], values: Stored) -> None:
        """See `FeatureFiles`."""
        if self.has(batch):  # one that is there is not touched, whatever happens meanwhile
            return
        sink = pa.BufferOutputStream()
        _write_arrow(sink, ids, values)
        file = sink.getvalue()
        features = pa.ipc.open_file(pa.BufferReader(file)).get_batch(0).column("features")
        features_at = features.values.buffers()[1].address - file.address
        self._put(f"{batch}.arrow", file)
        index = {"ids": list(ids), "features_at": features_at, "bytes": file.size}
        self.write_json(f"{batch}.json", index)

    def read_ids(self, batches: Sequence[str]) -> Iterator[list[str]]:
        """See `FeatureFiles`."""
        for batch, index in zip(batches, _all_at_once(self._read_index, batches), strict=True):
            self._layouts[batch] = (index["features_at"], index["bytes"])
            yield index["ids"]

    def read_rows(self, wanted: Mapping[str, Sequence[int]]) -> Iterator[Stored]:
        """See `FeatureFiles`."""
        gap = _GAP_BYTES // self._row_bytes
        runs = {batch: runs_of(rows, gap) for batch, rows in wanted.items()}
        asked = [(batch, run) for batch, of_batch in runs.items() for run in of_batch]
        answers = _all_at_once(self._read_run, asked)
        for batch, rows in wanted.items():
            found = {
                row: values
                for run in runs[batch]
                for row, values in zip(run, next(answers), strict=True)
            }
            yield np.stack([found[row] for row in rows])

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """See `FeatureFiles`."""
        system, prefix = self._system
        try:
            with system.open_input_stream(f"{prefix}/{name}") as stream:
                return json.loads(stream.read())
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """See `FeatureFiles`."""
        self._put(name, json.dumps(value).encode())

    def free_bytes(self) -> int | None:
        """See `FeatureFiles`."""
        return None

    @functools.cached_property
    def _system(self) -> tuple[Any, str]:
        """Pyarrow's file system, and the prefix in its manner, `bucket/prefix`."""
        from pyarrow.fs import FileSystem

        system, prefix = FileSystem.from_uri(self.name)
        return system, prefix

    def _put(self, name: str, content: Any) -> None:  # noqa: ANN401 - bytes or Arrow's buffer
        system, prefix = self._system

        def upload() -> None:
            with system.open_output_stream(f"{prefix}/{name}") as stream:
                stream.write(content)

        # an exception between opening and writing would end the upload, and pyarrow would make an
        # empty object of it
        _out_of_reach(upload)

    def _read_index(self, batch: str) -> dict[str, Any]:
        try:
            index: dict[str, Any] = self.read_json(f"{batch}.json")
            sizes = {name: int(index[name]) for name in ("features_at", "bytes")}
            return {"ids": list(index["ids"]), **sizes}
        except (ValueError, KeyError, TypeError):
            raise _damaged(f"{self.name}/{batch}.json", "its index is no index") from None

    def _open_batch(self, batch: str) -> Any:  # noqa: ANN401 - pyarrow has no stubs
        system, prefix = self._system
        try:
            file = system.open_input_file(f"{prefix}/{batch}.arrow")
            found = f"it has {file.size()} bytes"
        except FileNotFoundError:
            found = "it is gone"
        size = self._layouts[batch][1]
        if found != f"it has {size} bytes":
            # without its index it counts no longer, and the next job writes both
            raise _damaged(f"{self.name}/{batch}.json", f"of the batch of {size} bytes, {found}")
        return file

    def _read_run(self, asked: tuple[str, range]) -> Stored:
        """Read rows of a batch that lie side by side, `(n, P * W)`."""
        batch, run = asked
        begin = self._layouts[batch][0] + run.start * self._row_bytes
        content = self._open(batch).read_at(len(run) * self._row_bytes, begin)
        return np.frombuffer(content, self._dtype).reshape(len(run), self._width)


def runs_of(rows: Iterable[int], gap: int) -> list[range]:
    """Cover rows with runs, in order; those with at most `gap` rows between them share one."""
    runs: list[range] = []
    for row in sorted(set(rows)):
        if runs and row - runs[-1].stop <= gap:
            runs[-1] = range(runs[-1].start, row + 1)
        else:
            runs.append(range(row, row + 1))
    return runs


def _out_of_reach(function: Callable[[], None]) -> None:
    """Call a function in a thread, which no signal reaches, and wait for its end.

    The thread is a bare one. An exception that a signal raises while `threading` or a pool takes
    the lock of a condition leaves that lock taken, and the start of the thread, or the end of the
    pool, then waits for it for ever (CPython 3.11).
    """
    failures: list[BaseException] = []
    ended: list[bool] = []
    is_running = _thread.allocate_lock()

    def call() -> None:
        try:
            function()
        except BaseException as error:  # it is raised where the function was asked for
            failures.append(error)
        finally:
            ended.append(True)
            is_running.release()

    is_running.acquire()
    _thread.start_new_thread(call, ())
    try:
        is_running.acquire()
    except BaseException:
        while not ended:  # the lock may be ours by now
            time.sleep(_POLL_S)
        raise
    if failures:
        raise failures[0]


def _all_at_once(function: Callable[[Asked], Answer], asked: Sequence[Asked]) -> Iterator[Answer]:
    """Answers in the order of what was asked, `_REQUESTS` of them at a time."""
    with ThreadPoolExecutor(_REQUESTS) as threads:
        yield from threads.map(function, asked)


def _write_arrow(sink: Any, ids: Sequence[str], values: Stored) -> None:  # noqa: ANN401 - pyarrow
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), values.shape[1] * values.shape[2]
    )
    batch = pa.record_batch([pa.array(ids, pa.string()), column], ["image_id", "features"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _open_batch(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no stubs
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(str(path), type(error).__name__) from None


@functools.lru_cache(maxsize=4096)  # batches never change; the system allows 65,530 maps
def _map_features(path: Path) -> Stored:
    """Memory-mapped features of a batch as they are stored, `(N, P * W)`."""
    column = _open_batch(path).column("features")
    values: Stored = column.values.to_numpy(zero_copy_only=True)
    return values.reshape(len(column), -1)


def _damaged(name: str, why: str) -> DataError:
    return DataError(
        f"feature batch {name!r} cannot be read ({why}); remove the file and run: sonoray embed"
    )


def _remove_stale(folder: Path) -> None:
    oldest = time.time() - _STALE_S
    for path in folder.glob(".*.partial"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # its writer has just renamed it
            continue
