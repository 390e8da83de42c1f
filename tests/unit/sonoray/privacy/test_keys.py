import os
import pickle
import stat
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonoray.config.load import validate_config
from sonoray.errors import ConfigError, DataError
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import SPLITS
from sonoray.study.splits import SplitFractions, assign_split
from sonoray.workspace import Workspace

KEYS = [IdentityKey.public().patient_key(f"patient-{n}") for n in range(3000)]


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path)


def test_the_public_key_gives_the_same_identities_everywhere():
    key = IdentityKey.public()
    assert key.patient_key("7") == (
        "3d45c6df3c96f5fd1cb70dcff9926a88d3efb67d9635b827b5f4bf83a46fa3bf"
    )
    assert key.source_ref("images/a.png") == "images/a.png"


def test_a_workspace_keeps_its_secret_to_itself(workspace):
    key = IdentityKey.load(workspace)
    path = workspace.root / "identity.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert IdentityKey.load(workspace) == key
    assert [file.name for file in workspace.root.iterdir()] == ["identity.key"]
    assert key.secret.hex() not in repr(key)
    assert "WANG" not in key.source_ref("WANG/1.dcm")


def test_another_secret_gives_other_identities(tmp_path):
    keys = [IdentityKey.load(Workspace.open(tmp_path / name)) for name in "ab"]
    keys.append(IdentityKey.public())
    assert len({key.patient_key("7") for key in keys}) == 3
    assert len({key.fingerprint for key in keys}) == 3


def test_kinds_of_identifiers_do_not_collide():
    key = IdentityKey(b"s")
    assert len({key.patient_key("7"), key.study_id("7"), key.source_ref("7")}) == 3


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_readable_secret_is_refused_and_the_fix_works(workspace, mode):
    key = IdentityKey.load(workspace)
    path = workspace.root / "identity.key"
    path.chmod(mode)
    with pytest.raises(DataError, match=f"mode {mode:04o}.*chmod 600"):
        IdentityKey.load(workspace)
    path.chmod(0o600)
    assert IdentityKey.load(workspace) == key


@pytest.mark.parametrize("content", [b"", b"abcd", b"not hex" * 10, b"\xff" * 64])
def test_a_damaged_secret_is_never_replaced_silently(workspace, content):
    path = workspace.root / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DataError, match="restore it from a backup"):
        IdentityKey.load(workspace)
    assert path.read_bytes() == content


def test_a_loose_umask_does_not_loosen_the_secret(workspace):
    old = os.umask(0)
    try:
        IdentityKey.load(workspace)
    finally:
        os.umask(old)
    assert stat.S_IMODE((workspace.root / "identity.key").stat().st_mode) == 0o600


def test_simultaneous_first_loads_agree_on_one_secret(workspace):
    barrier, keys = threading.Barrier(8), []

    def load():
        barrier.wait(timeout=10)
        keys.append(IdentityKey.load(workspace))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_key_survives_pickling(workspace):
    key = IdentityKey.load(workspace)
    assert pickle.loads(pickle.dumps(key)) == key


def test_fractions_are_met():
    counts = Counter(assign_split(key, SplitFractions()) for key in KEYS)
    for split, fraction in zip(SPLITS, (0.6, 0.1, 0.3), strict=True):
        assert counts[split] / len(KEYS) == pytest.approx(fraction, abs=0.03)


def test_another_seed_draws_another_partition():
    fractions = SplitFractions()
    moved = sum(assign_split(key, fractions) != assign_split(key, fractions, 1) for key in KEYS)
    assert moved > len(KEYS) / 3


@given(st.text(), st.integers(0, 5), st.floats(0, 1), st.floats(0, 1))
def test_growing_train_moves_patients_only_into_train(patient, seed, one, other):
    small, large = sorted((one, other))
    before = assign_split(patient, SplitFractions(train=small, validation=0, test=1 - small), seed)
    after = assign_split(patient, SplitFractions(train=large, validation=0, test=1 - large), seed)
    assert before in SPLITS
    assert after == "train" or before != "train"


@pytest.mark.parametrize("split", SPLITS)
def test_a_whole_split_takes_everyone(split):
    fractions = SplitFractions(**{name: float(name == split) for name in SPLITS})
    assert {assign_split(key, fractions) for key in KEYS[:100]} == {split}


def test_fractions_that_do_not_add_up_are_refused():
    with pytest.raises(ConfigError, match=r"= 1\.1, they must add up to 1"):
        validate_config(SplitFractions, {"train": 0.7}, "ingest.splits")


def test_a_key_outside_the_workspace_counts_and_is_never_made(workspace, tmp_path, monkeypatch):
    outside = tmp_path / "mounted" / "key"
    monkeypatch.setenv("SONORAY_IDENTITY_KEY_FILE", str(outside))
    with pytest.raises(DataError, match=r"SONORAY_IDENTITY_KEY_FILE names .* is not there"):
        IdentityKey.load(workspace)
    outside.parent.mkdir()
    outside.write_text("ab" * 32)
    outside.chmod(0o440)  # what a Pod's fsGroup makes of a Secret's file
    assert IdentityKey.load(workspace).secret == bytes.fromhex("ab" * 32)
    assert not (workspace.root / "identity.key").exists()
    for mode in (0o444, 0o460):
        outside.chmod(mode)
        with pytest.raises(DataError, match="so others can read it"):
            IdentityKey.load(workspace)
