import os
import stat

import pytest

from sonoray.errors import DataError
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.dicomweb.spool import open_spool


def opened(folder, *, max_object_bytes=100, max_bytes=150):
    return open_spool(
        folder, lambda uid: f"n{uid}", max_object_bytes=max_object_bytes, max_bytes=max_bytes
    )


def give(*pieces):
    def copy(write):
        for piece in pieces:
            write(piece)

    return copy


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_objects_are_whole_private_and_found_by_the_next_process(tmp_path):
    folder = tmp_path / "spool" / "kidney"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with opened(folder) as spool:
        assert not spool.has("1")
        spool.add("1", give(b"ab", b"c"))
        assert spool.path("1").read_bytes() == b"abc"
        assert (mode(folder), mode(spool.path("1"))) == (0o700, 0o600)
    with opened(folder) as spool:
        assert spool.has("1")
        spool.remove()
    assert not folder.exists()


def test_what_was_interrupted_leaves_nothing(tmp_path):
    def fail(write):
        write(b"x" * 60)
        raise ConnectionAbortedError

    with opened(tmp_path) as spool:
        for _ in range(5):
            with pytest.raises(DataError, match="cannot be written"):
                spool.add("1", fail)
        spool.add("2", give(b"y" * 90))  # there is room: the others gave theirs back
        assert files(tmp_path) == ["n2"]
    (tmp_path / "n3.partial").write_bytes(b"x" * 140)  # of a process that was killed
    with opened(tmp_path) as spool:
        assert files(tmp_path) == ["n2"]
        spool.add("3", give(b"z" * 60))


def test_an_object_and_the_whole_have_their_limits(tmp_path):
    with opened(tmp_path) as spool:
        with pytest.raises(RejectedImageError, match="too_many_bytes: more than 100 bytes"):
            spool.add("1", give(b"x" * 60, b"x" * 41))
        spool.add("1", give(b"x" * 100))
        with pytest.raises(DataError, match=r"raise dicomweb\.max_spool_bytes"):
            spool.add("2", give(b"x" * 51))
        spool.add("3", give(b"x" * 50))
    with opened(tmp_path) as spool, pytest.raises(DataError, match="more than 150 bytes"):
        spool.add("4", give(b"x"))


def test_one_process_at_a_time_has_it(tmp_path):
    with opened(tmp_path), pytest.raises(DataError, match="another ingest uses"), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be made"), opened(tmp_path / "spool"):
        pass
