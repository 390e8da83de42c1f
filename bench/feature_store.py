"""Write and random-read rate of the feature store, beside Parquet and, where installed, Lance.

Run: `.venv/bin/python bench/feature_store.py [--rows 10000] [--repeats 20] [--writers 4]
[--root s3://bucket/prefix]`; an object store's endpoint and keys come from the environment.

Every layout gets the same float16 features (36 tokens x 256 channels) in batches of 64: from one
process, then the same rows from several at once (`--writers`, started together, each its share, all
rows read back and compared), then random reads of 256 rows through a fresh reader. Parquet holds
the features as fixed-size binary in row groups of 64, uncompressed, a file for each writer, since
two cannot write one file; it has its rows on disk only when the file is closed. Lance appends every
batch to one dataset, which all writers commit to. The page cache is warm: what differs is the
layout, not the disk. The figures in `sonoray.features.store` are from 2 cores of a shared machine.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from sonoray.features.store import Features, FeatureStore

TOKENS, CHANNELS, BATCH, READ = 36, 256, 64, 256
Ids = list[str]
Reader = Callable[[Ids], Features]


@dataclass(frozen=True)
class Layout:
    """One way to keep features."""

    name: str
    write: Callable[[str, range], None]
    """Writes the rows of a range below a folder or a URI."""
    open: Callable[[str], Reader]
    needs: str = "sonoray"
    """Module without which there is nothing to measure."""


def _batches(rows: range) -> Iterator[tuple[Ids, Features]]:
    features = np.random.default_rng(0).standard_normal((BATCH, TOKENS, CHANNELS))
    for start in range(rows.start, rows.stop, BATCH):
        numbers = range(start, min(start + BATCH, rows.stop))
        values = features[: len(numbers)].astype(np.float16)
        values[:, 0, 0] = [number % 1024 for number in numbers]  # tells the rows apart
        yield [f"{number:064x}" for number in numbers], values


def _system(root: str) -> tuple[FileSystem, str]:
    """A file system for a folder or a URI, and the place in its manner."""
    return FileSystem.from_uri(root) if "://" in root else (LocalFileSystem(), root)


def _write_store(root: str, rows: range) -> None:
    writer = _open_store(root)
    for ids, features in _batches(rows):
        writer.write(ids, features)


def _open_store(root: str) -> FeatureStore:
    return FeatureStore(root, "bench", TOKENS, CHANNELS)


def _write_parquet(root: str, rows: range) -> None:
    schema = pa.schema([("image_id", pa.string()), ("features", pa.binary(TOKENS * CHANNELS * 2))])
    system, place = _system(root)
    path = f"{place}/part-{rows.start:08d}.parquet"
    with pq.ParquetWriter(path, schema, compression="none", filesystem=system) as writer:
        for ids, features in _batches(rows):
            writer.write_table(pa.table([ids, [row.tobytes() for row in features]], schema=schema))


def _open_parquet(root: str) -> Reader:
    system, place = _system(root)
    paths = sorted(info.path for info in system.get_file_info(FileSelector(place)) if info.size)
    files = [
        pq.ParquetFile(path, memory_map=True)
        if isinstance(system, LocalFileSystem)
        else pq.ParquetFile(system.open_input_file(path))
        for path in paths
    ]
    index = {}
    for number, file in enumerate(files):
        for group in range(file.num_row_groups):
            keys = file.read_row_group(group, ["image_id"])["image_id"].to_pylist()
            index.update({key: (number, group, row) for row, key in enumerate(keys)})

    def read(ids: Ids) -> Features:
        out = np.empty((len(ids), TOKENS * CHANNELS), np.float16)
        wanted: dict[int, dict[int, list[tuple[int, int]]]] = {}
        for position, key in enumerate(ids):
            number, group, row = index[key]
            wanted.setdefault(number, {}).setdefault(group, []).append((position, row))
        for number, groups in wanted.items():
            # the groups of a file in one call, which asks an object store for several at a time
            column = files[number].read_row_groups(list(groups), ["features"])["features"]
            sizes = [files[number].metadata.row_group(group).num_rows for group in groups]
            starts = np.cumsum([0, *sizes])
            places = list(chain.from_iterable(groups.values()))
            rows = [
                start + row
                for start, of_group in zip(starts, groups.values(), strict=False)
                for _, row in of_group
            ]
            values = np.frombuffer(column.take(rows).combine_chunks().buffers()[1], np.float16)
            out[[position for position, _ in places]] = values.reshape(len(rows), -1)
        return out.reshape(-1, TOKENS, CHANNELS)

    return read


def _write_lance(root: str, rows: range) -> None:
    import lance as lance_format

    size = TOKENS * CHANNELS
    schema = pa.schema([("image_id", pa.string()), ("f", pa.list_(pa.float16(), size))])
    path = f"{root}/all.lance"
    system, place = _system(path)
    if not system.get_file_info(FileSelector(place, allow_not_found=True)):
        lance_format.write_dataset(schema.empty_table(), path, mode="overwrite")
    for ids, features in _batches(rows):
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), size)
        lance_format.write_dataset(pa.table([ids, column], schema=schema), path, mode="append")


def _open_lance(root: str) -> Reader:
    import lance as lance_format

    dataset = lance_format.dataset(f"{root}/all.lance")
    keys = dataset.to_table(columns=["image_id"])[0].to_pylist()
    index = {key: row for row, key in enumerate(keys)}

    def read(ids: Ids) -> Features:
        table = dataset.take([index[key] for key in ids], columns=["f"])
        column = table["f"].combine_chunks()
        return column.flatten().to_numpy().reshape(-1, TOKENS, CHANNELS)

    return read


LAYOUTS = (
    Layout("store", _write_store, lambda root: _open_store(root).read),
    Layout("parquet", _write_parquet, _open_parquet),
    Layout("lance", _write_lance, _open_lance, needs="lance"),
)


def _measure(layout: Layout, args: argparse.Namespace) -> str:
    with _place(args.root) as root:
        start = time.perf_counter()
        layout.write(root, range(args.rows))
        write_s = time.perf_counter() - start
        system, place = _system(root)
        size = sum(
            info.size or 0 for info in system.get_file_info(FileSelector(place, recursive=True))
        )
        rng = np.random.default_rng(1)
        start = time.perf_counter()
        read = layout.open(root)
        read([f"{0:064x}"])
        open_s = time.perf_counter() - start
        times = []
        for _ in range(args.repeats):
            ids = [f"{row:064x}" for row in rng.choice(args.rows, READ)]
            start = time.perf_counter()
            features = read(ids)
            times.append(time.perf_counter() - start)
        assert features.shape == (READ, TOKENS, CHANNELS)
    together_s = _write_together(layout, args.rows, args.writers, args.root)
    return (
        f"{layout.name:<8} {size / args.rows / 1e3:6.2f} kB a row  "
        f"write {args.rows / write_s:7.0f} rows/s, {args.writers} writers "
        f"{args.rows / together_s:7.0f}  open {1e3 * open_s:6.1f} ms  "
        f"read {READ}: median {1e3 * statistics.median(times):6.2f} ms, "
        f"slowest {1e3 * max(times):6.2f} ms"
    )


@contextmanager
def _place(root: str) -> Iterator[str]:
    """An empty place, which does not stay."""
    if not root:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    place = f"{root.rstrip('/')}/{uuid.uuid4().hex}"
    yield place
    system, path = _system(place)
    for info in system.get_file_info(FileSelector(path, recursive=True)):
        if info.is_file:
            system.delete_file(info.path)


def _write_together(layout: Layout, rows: int, writers: int, root: str) -> float:
    """Seconds from the first writer's start to the last one's end; all rows must be there."""
    context = multiprocessing.get_context("spawn")
    with _place(root) as place:
        layout.write(place, range(0))  # the dataset exists when writers meet
        gate, spans = context.Barrier(writers), context.Queue()
        bounds = [rows * number // writers for number in range(writers + 1)]
        shares = [range(*bounds[number : number + 2]) for number in range(writers)]
        processes = [
            context.Process(target=_write_share, args=(layout.name, place, share, gate, spans))
            for share in shares
        ]
        for process in processes:
            process.start()
        took = [spans.get() for _ in processes]
        for process in processes:
            process.join()
        numbers = np.random.default_rng(2).permutation(rows)
        features = layout.open(place)([f"{number:064x}" for number in numbers])
        np.testing.assert_array_equal(features[:, 0, 0], numbers % 1024)
    return max(end for _, end in took) - min(start for start, _ in took)


def _write_share(name: str, place: str, rows: range, gate: object, spans: object) -> None:
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    gate.wait()  # type: ignore[attr-defined]
    start = time.time()
    layout.write(place, rows)
    spans.put((start, time.time()))  # type: ignore[attr-defined]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--root", default="", help="folder or s3:// URI; a temporary folder")
    args = parser.parse_args()
    for layout in LAYOUTS:
        if find_spec(layout.needs) is None:
            print(f"{layout.name:<8} not installed ({layout.needs})", file=sys.stderr)
        else:
            print(_measure(layout, args), flush=True)


if __name__ == "__main__":
    _main()
