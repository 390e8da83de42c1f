"""Feature stores in a folder and in an object store: the same promises, on a real S3 server."""

import itertools
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonoray.errors import DataError, JobFailedError
from sonoray.features.formats import FORMATS
from sonoray.features.places import runs_of
from sonoray.features.store import FeatureStore

TOKENS, CHANNELS = 4, 8

WRITER = """
import sys
import numpy as np
from sonoray.features.store import FeatureStore

root, start, count = sys.argv[1], *map(int, sys.argv[2:4])
store = FeatureStore(root, "tower", 4, 8)
for number in range(start, start + count):
    if number == start + count // 2:
        sys.stdin.readline()  # whoever started it has seen the first half
    ids = [f"{number}-{row}" for row in range(8)]
    store.write(ids, np.full((8, 4, 8), number % 1000, np.float32))
    print(number, flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where stores may lie, of either kind."""
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("prefix").uri


def open_store(root: str, kept_as: Any = "float16", channels: int = CHANNELS) -> FeatureStore:
    return FeatureStore(root, "tower", TOKENS, channels, kept_as)


def values_of(ids: list[str]) -> np.ndarray:
    """Features that follow from the ids: each value tells its image, its token and its channel."""
    places = np.arange(TOKENS * CHANNELS).reshape(TOKENS, CHANNELS) / 64
    return np.stack([int(key) % 10 + places for key in ids]).astype(np.float32)


def start_writer(root: str, start: int, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, root, str(start), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kept_as", sorted(FORMATS))
def test_what_was_written_is_read_in_any_order(root, kept_as):
    store = open_store(root, kept_as)
    batches = [[str(10 * batch + row) for row in range(7)] for batch in range(3)]
    for ids in batches:
        store.write(ids, values_of(ids))
    reader = open_store(root, kept_as)
    wanted = [ids[row] for ids in reversed(batches) for row in (5, 0, 6, 1, 2, 5)]
    step = np.abs(values_of(wanted)).max() / 100 if kept_as in ("int8", "bfloat16") else 0.02
    np.testing.assert_allclose(reader.read(wanted), values_of(wanted), atol=step)
    assert reader.missing(["20", "7", "0", "99"]) == ["7", "99"]
    assert reader.ids() == {each for ids in batches for each in ids}


def test_stores_of_both_kinds_give_the_same_bits(prefix, tmp_path):
    ids = [str(number) for number in range(9)]
    features = np.random.default_rng(0).standard_normal((9, TOKENS, CHANNELS))
    for place in (prefix.uri, tmp_path):
        open_store(place).write(ids, features)
    read = [open_store(place).read(ids) for place in (prefix.uri, tmp_path)]
    assert read[0].dtype == read[1].dtype
    assert read[0].tobytes() == read[1].tobytes()


def test_the_same_batch_twice_is_one_and_a_reader_sees_later_ones(root):
    store, reader = open_store(root), open_store(root)
    assert reader.ids() == set()
    for _ in range(2):
        store.write(["1", "2"], values_of(["1", "2"]))
        assert store.holds(["1", "2"])
    assert not store.holds(["2", "1"])
    assert reader.ids() == {"1", "2"}
    store.write(["2", "3"], values_of(["2", "3"]))
    assert reader.missing(["3", "4"]) == ["4"]
    np.testing.assert_array_equal(reader.read(["3", "2"]), values_of(["3", "2"]))


def test_another_shape_under_the_same_fingerprint_is_refused(root):
    open_store(root).write(["1"], values_of(["1"]))
    with pytest.raises(DataError, match=r"holds .*'num_channels': 8.* asked for .*16"):
        open_store(root, channels=16)


def test_a_sealed_dataset_is_told_from_another(root):
    store = open_store(root)
    assert store.num_sealed("d1") is None
    store.write(["1", "2"], values_of(["1", "2"]))
    store.seal("d1", 2)
    assert open_store(root).num_sealed("d1") == 2
    assert store.num_sealed("d2") is None


def test_two_processes_write_while_a_third_reads(root):
    """The writers' batches 10 to 19 are the same."""
    writers = [start_writer(root, start=start, count=20) for start in (0, 10)]
    store, looks = open_store(root), 0
    while any(writer.poll() is None for writer in writers):
        seen = sorted(store.ids())[-16:]
        for image_id, value in zip(seen, store.read(seen), strict=True):
            assert (value == int(image_id.split("-")[0])).all()
        looks += bool(seen)
        if looks == 2:
            for writer in writers:
                writer.stdin.write("\n")
                writer.stdin.flush()
    assert looks >= 2
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
    assert store.ids() == {f"{number}-{row}" for number in range(30) for row in range(8)}


def test_kill_nine_loses_nothing_committed_and_shows_nothing_half_written(root):
    """A real writer is killed at five different moments; what it had reported must be there."""
    reported = []
    for attempt in range(5):
        writer = start_writer(root, start=1000 * attempt, count=1000)
        reported += [int(writer.stdout.readline()) for _ in range(3)]
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        assert writer.returncode == -signal.SIGKILL
        reported += [int(line) for line in rest.split("\n") if line and rest.endswith("\n")]
    store = open_store(root)
    expected = [f"{number}-{row}" for number in reported for row in range(8)]
    assert store.missing(expected) == []
    committed = sorted(store.ids())
    assert len(committed) % 8 == 0
    for image_id, value in zip(committed, store.read(committed), strict=True):
        assert (value == int(image_id.split("-")[0]) % 1000).all()


def test_an_interrupted_writer_leaves_nothing_that_is_half_written(root):
    """Ctrl-C, and how Ray ends a worker: an exception between any two steps of the main thread."""
    is_armed = False

    def write(image_id: str) -> None:
        store = open_store(root)
        store.make()
        store.write([image_id], values_of([image_id]))

    write("0")
    start = time.monotonic()
    write("1")
    whole_s = time.monotonic() - start
    num_interrupted = 0

    def interrupt(*_: object) -> None:
        if is_armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(2, 102):
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, whole_s * number / 60)
                write(str(number))
                is_armed = False
            except KeyboardInterrupt:
                is_armed = False
                num_interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    write("102")
    assert num_interrupted
    found = sorted(open_store(root).ids())
    assert {"0", "1", "102"} <= set(found)
    np.testing.assert_array_equal(open_store(root).read(found), values_of(found))


def test_a_batch_that_is_there_is_not_written_again(prefix):
    store = open_store(prefix.uri)
    store.write(["1"], values_of(["1"]))
    (batch,) = prefix.names("batch-*.arrow")
    prefix.write(batch, b"touched")
    store.write(["1"], values_of(["1"]))
    assert prefix.read(batch) == b"touched"


def test_an_upload_without_its_index_is_no_batch_and_may_come_again(prefix):
    store = open_store(prefix.uri)
    store.write(["1"], values_of(["1"]))
    (index,) = prefix.names("batch-*.json")
    prefix.delete(index)
    assert not store.holds(["1"])
    assert open_store(prefix.uri).ids() == set()
    store.write(["1"], values_of(["1"]))
    np.testing.assert_array_equal(open_store(prefix.uri).read(["1"]), values_of(["1"]))


@pytest.mark.parametrize("left", [0, 700, None])
def test_a_damaged_batch_is_named_and_its_removal_mends_the_store(prefix, left):
    """Its object is cut off, or gone."""
    store = open_store(prefix.uri)
    store.write(["1", "2"], values_of(["1", "2"]))
    store.seal("d1", 2)
    (batch,) = prefix.names("batch-*.arrow")
    (index,) = prefix.names("batch-*.json")
    if left is None:
        prefix.delete(batch)
    else:
        prefix.write(batch, prefix.read(batch)[:left])
    found = "it is gone" if left is None else f"it has {left} bytes"
    with pytest.raises(DataError, match=rf"{index}' .*{found}.*remove the file and run: sonoray"):
        open_store(prefix.uri).read(["1"])
    prefix.delete(index)
    assert open_store(prefix.uri).missing(["1"]) == ["1"]
    assert store.num_sealed("d1") is None
    store.write(["1", "2"], values_of(["1", "2"]))
    np.testing.assert_array_equal(open_store(prefix.uri).read(["2"]), values_of(["2"]))


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]"])
def test_a_damaged_index_is_named(prefix, content):
    open_store(prefix.uri).write(["1"], values_of(["1"]))
    (index,) = prefix.names("batch-*.json")
    prefix.write(index, content)
    with pytest.raises(DataError, match=rf"{index}' cannot be read .*run: sonoray embed"):
        open_store(prefix.uri).ids()


def test_a_place_that_takes_nothing_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    """Also where the store stands already."""
    open_store(str(tmp_path)).make()
    store = open_store(str(tmp_path))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(DataError, match=r"cannot be made \(Permission denied\); mend that"):
        store.make()


def test_a_sealed_dataset_is_open_again_where_a_batch_is_gone(prefix):
    store = open_store(prefix.uri)
    store.write(["1"], values_of(["1"]))
    store.seal("d1", 1)
    for name in prefix.names("batch-*"):
        prefix.delete(name)
    assert store.num_sealed("d1") is None


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_are_one_line(prefix, monkeypatch):
    with pytest.raises(
        DataError, match=r"tower-float16' cannot be made \(NO_SUCH_BUCKET.*exist\);"
    ):
        open_store("s3://not-there/x").make()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(
        DataError, match=r"cannot be read .*NETWORK_CONNECTION.*check that"
    ) as refused:
        open_store(prefix.uri)
    assert "\n" not in str(refused.value)


def test_a_key_id_that_is_not_known_is_said_in_our_words(prefix, start_s3, monkeypatch):
    import boto3

    with start_s3() as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="guarded")
        store = open_store("s3://guarded/x")
        asked = urllib.request.Request(
            f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(asked).close()
        with pytest.raises(
            DataError, match=r"\(.* does not know the key id in AWS_ACCESS_KEY_ID\)"
        ):
            store.make()
        with pytest.raises(
            DataError, match=r"read \(its server refuses the key of AWS_ACCESS_KEY_ID, .*\); check"
        ) as refused:
            open_store("s3://guarded/x")
    assert "HeadObject" not in str(refused.value)


def test_a_server_that_dies_fails_the_job_and_not_its_settings(prefix, start_s3, monkeypatch):
    import boto3

    with start_s3() as (url, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="mortal")
        store = open_store("s3://mortal/x")
        store.write(["1"], values_of(["1"]))
        server.kill()
        server.wait()
        with pytest.raises(
            JobFailedError, match=r"cannot be read .*what is committed stays"
        ) as gone:
            store.ids()
    assert gone.value.exit_code == 1


def test_nobody_knows_how_much_an_object_store_takes(prefix, tmp_path):
    assert open_store(prefix.uri).free_bytes() is None
    assert open_store(str(tmp_path / "not" / "there")).free_bytes() > 0


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(0, 5))
def test_runs_cover_the_rows_and_are_apart(rows, gap):
    runs = runs_of(rows, gap)
    assert set(rows) <= {row for run in runs for row in run}
    assert {run[0] for run in runs} | {run[-1] for run in runs} <= set(rows)
    for run in runs:
        within = sorted(set(rows) & set(run))
        assert all(row - before - 1 <= gap for before, row in itertools.pairwise(within))
    assert all(run.start - before.stop > gap for before, run in itertools.pairwise(runs))
