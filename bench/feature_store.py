"""Write and random-read rate of the feature store, beside Parquet and, where installed, Lance.

Run: `.venv/bin/python bench/feature_store.py [--rows 10000] [--repeats 20]`

Every layout gets the same float16 features (36 tokens x 256 channels) in batches of 64, then
random reads of 256 rows through a fresh reader. Parquet holds the features as fixed-size binary
in row groups of 64, uncompressed.
The page cache is warm: what differs is the layout, not the disk. The figures in
`sonoray.feature_store` are from 2 cores of a shared machine; it takes about 10 seconds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sonoray.feature_store import Features, FeatureStore

TOKENS, CHANNELS, BATCH, READ = 36, 256, 64, 256
Ids = list[str]
Reader = Callable[[Ids], Features]


def _batches(rows: int) -> Iterator[tuple[Ids, Features]]:
    features = np.random.default_rng(0).standard_normal((BATCH, TOKENS, CHANNELS))
    for start in range(0, rows, BATCH):
        ids = [f"{row:064x}" for row in range(start, min(start + BATCH, rows))]
        yield ids, features[: len(ids)].astype(np.float16)


def _store(root: Path, rows: int) -> Callable[[], Reader]:
    writer = FeatureStore(root, "bench", TOKENS, CHANNELS, "float16")
    for ids, features in _batches(rows):
        writer.write(ids, features)
    return lambda: FeatureStore(root, "bench", TOKENS, CHANNELS, "float16").read


def _parquet(root: Path, rows: int) -> Callable[[], Reader]:
    size = TOKENS * CHANNELS * 2
    schema = pa.schema([("image_id", pa.string()), ("features", pa.binary(size))])
    with pq.ParquetWriter(root / "all.parquet", schema, compression="none") as writer:
        for ids, features in _batches(rows):
            writer.write_table(pa.table([ids, [row.tobytes() for row in features]], schema=schema))

    def open_reader() -> Reader:
        file = pq.ParquetFile(root / "all.parquet", memory_map=True)
        index = {key: row for row, key in enumerate(file.read(["image_id"])[0].to_pylist())}

        def read(ids: Ids) -> Features:
            out = np.empty((len(ids), TOKENS * CHANNELS), np.float16)
            rows_of: dict[int, list[tuple[int, int]]] = {}
            for position, key in enumerate(ids):
                group, row = divmod(index[key], BATCH)
                rows_of.setdefault(group, []).append((position, row))
            for group, wanted in rows_of.items():
                column = file.read_row_group(group, ["features"])["features"].chunk(0)
                for position, row in wanted:
                    out[position] = np.frombuffer(column[row].as_buffer(), np.float16)
            return out.reshape(-1, TOKENS, CHANNELS)

        return read

    return open_reader


def _lance(root: Path, rows: int) -> Callable[[], Reader]:
    import lance as lance_format

    size = TOKENS * CHANNELS
    kind = pa.list_(pa.float16(), size)
    for ids, features in _batches(rows):
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), size)
        table = pa.table([ids, column], schema=pa.schema([("image_id", pa.string()), ("f", kind)]))
        exists = (root / "all.lance").exists()
        lance_format.write_dataset(table, root / "all.lance", mode="append" if exists else "create")

    def open_reader() -> Reader:
        dataset = lance_format.dataset(root / "all.lance")
        keys = dataset.to_table(columns=["image_id"])[0].to_pylist()
        index = {key: row for row, key in enumerate(keys)}

        def read(ids: Ids) -> Features:
            table = dataset.take([index[key] for key in ids], columns=["f"])
            column = table["f"].combine_chunks()
            return column.flatten().to_numpy().reshape(-1, TOKENS, CHANNELS)

        return read

    return open_reader


def _measure(
    name: str, make: Callable[[Path, int], Callable[[], Reader]], args: argparse.Namespace
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        open_reader = make(Path(folder), args.rows)
        write_s = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        rng = np.random.default_rng(1)
        start = time.perf_counter()
        read = open_reader()
        read([f"{0:064x}"])
        open_s = time.perf_counter() - start
        times = []
        for _ in range(args.repeats):
            ids = [f"{row:064x}" for row in rng.choice(args.rows, READ)]
            start = time.perf_counter()
            features = read(ids)
            times.append(time.perf_counter() - start)
        assert features.shape == (READ, TOKENS, CHANNELS)
    return (
        f"{name:<8} write {args.rows / write_s:8.0f} rows/s ({size / write_s / 1e6:5.0f} MB/s)  "
        f"open {1e3 * open_s:6.1f} ms  read {READ}: median {1e3 * statistics.median(times):6.2f} ms"
        f", slowest {1e3 * max(times):6.2f} ms"
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    for name, make in (("store", _store), ("parquet", _parquet), ("lance", _lance)):
        try:
            print(_measure(name, make, args))
        except ModuleNotFoundError as error:
            print(f"{name:<8} not installed ({error.name})", file=sys.stderr)


if __name__ == "__main__":
    _main()
