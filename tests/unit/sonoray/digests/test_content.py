import os

import pytest

from sonoray.digests import content
from sonoray.digests.content import content_digest


def test_a_file_is_its_content_wherever_it_lies(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.pt", "b.safetensors", "c.pt"))
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    other.write_bytes(b"Weights")
    digests = [content_digest(path, tmp_path / "memory") for path in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]
    assert content_digest(tmp_path / "nothing.pt", tmp_path / "memory") is None


def test_a_folder_is_the_files_that_a_model_is_read_from(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "two" / "README.md").write_text("notes")

    def digests():
        return [content_digest(tmp_path / name, tmp_path / "memory") for name in ("one", "two")]

    first, second = digests()
    assert first == second
    (tmp_path / "two" / "model.safetensors").write_bytes(b"other weights")
    assert digests()[0] == first != digests()[1]


def test_what_has_not_changed_is_not_read_again_and_what_is_gone_is_remembered(
    tmp_path, monkeypatch
):
    file = tmp_path / "a.pt"
    file.write_bytes(b"weights")
    digest = content_digest(file, tmp_path / "memory")
    with monkeypatch.context() as patch:
        patch.setattr(content.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert content_digest(file, tmp_path / "memory") == digest
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))  # a clock may be coarser than two writes
    changed = content_digest(file, tmp_path / "memory")
    assert changed != digest
    file.unlink()
    assert content_digest(file, tmp_path / "memory") == changed
