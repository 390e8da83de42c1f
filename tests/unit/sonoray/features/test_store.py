import errno
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.errors import ConfigError, DataError
from sonoray.features.formats import FORMATS
from sonoray.features.store import FeatureStore

TOKENS, CHANNELS = 4, 8


def open_store(root, fingerprint="tower", kept_as="float16", shape=(TOKENS, CHANNELS)):
    return FeatureStore(root, fingerprint, *shape, kept_as)


def values_of(ids, shape=(TOKENS, CHANNELS)):
    """Features that follow from the ids, so that any reader can check them."""
    seeds = [int.from_bytes(key.encode()[-4:], "big") % 1000 for key in ids]
    return np.stack([np.full(shape, seed / 4, np.float32) for seed in seeds])


def batch_files(store):
    return sorted(Path(store.place).glob("batch-*.arrow"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5), max_size=5),
    st.sampled_from(sorted(FORMATS)),
    st.data(),
)
def test_what_was_written_is_read_in_any_order(batches, kept_as, data):
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder), kept_as=kept_as)
        for ids in batches:
            store.write(ids, values_of(ids))
        written = {key for ids in batches for key in ids}
        for reader in (store, open_store(Path(folder), kept_as=kept_as)):
            assert reader.ids() == written
            if written:
                wanted = data.draw(st.lists(st.sampled_from(sorted(written)), max_size=8))
                got = reader.read(wanted)
                assert got.dtype == FORMATS[kept_as].read_as
                assert got.shape == (len(wanted), TOKENS, CHANNELS)
                if wanted:
                    expected = FORMATS[kept_as].decode(FORMATS[kept_as].encode(values_of(wanted)))
                    np.testing.assert_array_equal(got, expected)


def test_every_channel_of_every_token_comes_back_in_its_place(tmp_path):
    features = np.random.default_rng(0).standard_normal((3, TOKENS, CHANNELS)).astype(np.float16)
    store = open_store(tmp_path)
    store.write(["a", "b", "c"], features)
    np.testing.assert_array_equal(open_store(tmp_path).read(["c", "a"]), features[[2, 0]])


def test_missing_keeps_the_order_and_names_each_once(tmp_path):
    store = open_store(tmp_path)
    assert store.missing(["b", "a", "b"]) == ["b", "a"]
    store.write(["a"], values_of(["a"]))
    assert store.missing(["c", "a", "b", "c"]) == ["c", "b"]


def test_opening_and_asking_leave_no_trace(tmp_path):
    store = open_store(tmp_path / "features")
    assert store.missing(["a"]) == ["a"]
    assert store.predict_bytes(10) > 0
    store.write([], np.empty((0, TOKENS, CHANNELS), np.float16))
    assert not (tmp_path / "features").exists()


def test_a_reader_sees_what_another_store_commits_later(tmp_path):
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    writer.write(["a"], values_of(["a"]))
    assert reader.missing(["a", "b"]) == ["b"]
    writer.write(["b"], values_of(["b"]))
    np.testing.assert_array_equal(reader.read(["b"]), values_of(["b"]))


def test_a_repeated_id_is_read_once(tmp_path):
    store = open_store(tmp_path)
    for ids in (["a", "b"], ["b", "c"]):
        store.write(ids, values_of(ids))
    assert store.ids() == {"a", "b", "c"}
    np.testing.assert_array_equal(store.read(["b"]), values_of(["b"]))


def test_an_absent_id_names_the_command(tmp_path):
    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    with pytest.raises(DataError, match=r"2 of 3 images .*first: 'x'.*sonoray embed"):
        store.read(["a", "x", "y"])


def test_towers_do_not_mix(tmp_path):
    one, other = open_store(tmp_path, "one"), open_store(tmp_path, "other")
    one.write(["a"], values_of(["a"]))
    assert other.ids() == set()


def test_formats_of_one_tower_stand_beside_each_other(tmp_path):
    half, small = open_store(tmp_path), open_store(tmp_path, kept_as="int8")
    half.write(["a"], values_of(["a"]))
    assert small.missing(["a"]) == ["a"]
    assert half.fingerprint == small.fingerprint == "tower"


@pytest.mark.parametrize("change", [{"shape": (5, CHANNELS)}, {"shape": (TOKENS, 9)}])
def test_another_shape_under_the_same_fingerprint_is_refused(tmp_path, change):
    early = open_store(tmp_path, **change)
    open_store(tmp_path).write(["a"], values_of(["a"]))
    with pytest.raises(DataError, match="asked for"):
        open_store(tmp_path, **change)
    with pytest.raises(DataError, match="asked for"):  # opened before the store existed
        early.ids()


@pytest.mark.parametrize("fingerprint", ["", "../up", "a/b", ".hidden"])
def test_a_fingerprint_must_be_a_plain_name(tmp_path, fingerprint):
    with pytest.raises(ConfigError, match="cannot name a folder"):
        open_store(tmp_path, fingerprint)


@pytest.mark.parametrize(("shape", "kept_as"), [((0, 4), "float16"), ((4, 4), "int4")])
def test_a_store_of_nothing_is_refused(tmp_path, shape, kept_as):
    with pytest.raises(ConfigError, match="makes no sense"):
        open_store(tmp_path, shape=shape, kept_as=kept_as)


def test_a_batch_of_another_shape_is_refused(tmp_path):
    with pytest.raises(DataError, match="do not fit 2 ids"):
        open_store(tmp_path).write(["a", "b"], values_of(["a"]))


@pytest.mark.parametrize(
    ("kept_as", "value"),
    [
        *((name, value) for name in sorted(FORMATS) for value in (np.nan, np.inf, -np.inf)),
        ("float16", 70_000.0),
        ("int8", 1e9),
    ],
)
def test_values_that_a_format_cannot_hold_are_refused_by_image(tmp_path, kept_as, value):
    store = open_store(tmp_path, kept_as=kept_as)
    features = values_of(["a", "b"])
    features[1, 2, 3] = value
    with pytest.raises(DataError, match=rf"image 'b' are not finite as {kept_as} .*largest"):
        store.write(["a", "b"], features)
    assert store.ids() == set()


def test_a_store_pickles_without_its_index(tmp_path):
    store = open_store(tmp_path)
    ids = [f"id-{n}" for n in range(2000)]
    store.write(ids, values_of(ids))
    assert store.ids() == set(ids)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).read(ids[:3]), values_of(ids[:3]))


@pytest.mark.parametrize("kept_as", sorted(FORMATS))
def test_the_predicted_size_is_what_the_disk_holds(tmp_path, kept_as):
    store = open_store(tmp_path, kept_as=kept_as, shape=(36, 256))
    for start in range(0, 256, 64):
        ids = [f"{n:064x}" for n in range(start, start + 64)]
        store.write(ids, values_of(ids, (36, 256)))
    size = sum(file.stat().st_size for file in Path(store.place).iterdir())
    assert store.predict_bytes(256) == pytest.approx(size, rel=0.01)


def test_a_damaged_batch_is_named(tmp_path):
    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    file = batch_files(store)[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{file.name}.*remove the file"):
        open_store(tmp_path).ids()


def test_damaged_meta_is_refused(tmp_path):
    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    (Path(store.place) / "meta.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        open_store(tmp_path)


def test_partial_files_are_invisible_and_old_ones_go(tmp_path):
    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    names = ("batch-young", "batch-old", "seal-old.json.0123abcd")
    young, old, old_seal = (Path(store.place) / f".{name}.partial" for name in names)
    for path in (young, old, old_seal):
        path.write_bytes(b"half a file")
    for path in (old, old_seal):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert open_store(tmp_path).ids() == {"a"}
    store.write(["b"], values_of(["b"]))  # it looked before its first batch, and only then
    assert old.exists()
    open_store(tmp_path).write(["c"], values_of(["c"]))
    assert young.exists()
    assert not old.exists()
    assert not old_seal.exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """A file size limit of the process stands in for the disk: the write itself fails."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from sonoray.errors import DataError
from sonoray.features.store import FeatureStore

store = FeatureStore(Path(sys.argv[1]), "tower", 64, 64, "float16")
store.write(["a"], np.zeros((1, 64, 64), np.float16))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.write([f"b{n}" for n in range(8)], np.zeros((8, 64, 64), np.float16))
except DataError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "does not take 65,536 bytes (File too large); mend that and run: sonoray embed" in (
        done.stdout
    )
    store = FeatureStore(tmp_path, "tower", 64, 64, "float16")
    assert store.ids() == {"a"}
    assert len(list(Path(store.place).iterdir())) == 2


def test_the_same_batch_from_two_writers_is_one_file(tmp_path):
    store = open_store(tmp_path)
    for _ in range(2):
        assert store.holds(["a", "b"]) == bool(batch_files(store))
        store.write(["a", "b"], values_of(["a", "b"]))
    assert len(batch_files(store)) == 1
    assert not store.holds(["b", "a"])
    assert not store.holds(["a"])


def test_a_sealed_dataset_stays_sealed_until_a_batch_is_gone(tmp_path):
    store = open_store(tmp_path)
    assert store.num_sealed("d1") is None
    store.write(["a", "b"], values_of(["a", "b"]))
    store.seal("d1", 2)
    (sealed,) = batch_files(store)
    store.write(["c"], values_of(["c"]))
    (other,) = set(batch_files(store)) - {sealed}
    other.unlink()
    assert open_store(tmp_path).num_sealed("d1") == 2
    assert store.num_sealed("d2") is None
    sealed.rename(tmp_path / "away")
    assert store.num_sealed("d1") is None
    (tmp_path / "away").rename(sealed)
    assert store.num_sealed("d1") == 2
    (Path(store.place) / "seal-d1.json").write_text("{", encoding="utf-8")
    assert store.num_sealed("d1") is None


def test_a_seal_that_the_disk_does_not_take_is_one_line(tmp_path):
    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    (Path(store.place) / "seal-d1.json").mkdir()
    with pytest.raises(DataError, match=r"cannot be sealed \(Is a directory\); mend that and run"):
        store.seal("d1", 1)


def test_a_seal_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    answers = iter([OSError(errno.ESTALE, "Stale file handle")] * 2)
    replace, waits = os.replace, []

    def failing_replace(source: Path, target: Path) -> None:
        if error := next(answers, None):
            raise error
        replace(source, target)

    store = open_store(tmp_path)
    store.write(["a"], values_of(["a"]))
    monkeypatch.setattr("os.replace", failing_replace)
    monkeypatch.setattr("time.sleep", waits.append)
    store.seal("d1", 1)
    assert store.num_sealed("d1") == 1
    assert len(waits) == 2


@pytest.mark.parametrize(("failures", "lasts"), [(2, False), (9, True)])
def test_a_write_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch, failures, lasts):
    """The disk answers EIO so many times, as a network file system does while it fails over."""
    answers = iter([OSError(errno.EIO, "Input/output error")] * failures)
    sync, waits = os.fsync, []

    def failing_sync(descriptor: int) -> None:
        if error := next(answers, None):
            raise error
        sync(descriptor)

    monkeypatch.setattr("os.fsync", failing_sync)
    monkeypatch.setattr("time.sleep", waits.append)
    store = open_store(tmp_path)
    if lasts:
        with pytest.raises(DataError, match=r"\(Input/output error\); mend that"):
            store.write(["a"], values_of(["a"]))
        assert store.ids() == set()
    else:
        store.write(["a"], values_of(["a"]))
        assert store.ids() == {"a"}
    assert waits == sorted(waits)
    assert len(waits) == (3 if lasts else failures)
    assert not list(Path(store.place).glob(".*.partial"))


def test_features_of_another_precision_lie_elsewhere(tmp_path):
    full = FeatureStore(tmp_path, "tower", 1, 2)
    half = FeatureStore(tmp_path, "tower", 1, 2, "float16", "bfloat16")
    full.write(["a"], np.ones((1, 1, 2), np.float32))
    assert half.missing(["a"]) == ["a"]
    half.write(["a"], np.zeros((1, 1, 2), np.float32))
    assert full.read(["a"]).max() == 1
    assert pickle.loads(pickle.dumps(half)).read(["a"]).max() == 0
