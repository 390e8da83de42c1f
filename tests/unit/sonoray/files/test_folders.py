import os
import tempfile
from pathlib import Path

import pytest

from sonoray.files.folders import list_files

NOBODY = 65534


@pytest.fixture
def folder():
    """A folder in which a user without rights may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def without_rights():
    """Run the test as a user whom file modes hold, where it runs as root."""
    user = os.geteuid()
    if not user:
        os.seteuid(NOBODY)
    yield
    os.seteuid(user)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def listed(folder):
    return [(found.ref, found.problem.partition(":")[0]) for found in list_files(folder)]


def test_files_come_before_folders_and_both_by_name(folder):
    for name in ("z", "a/2/x", "a/1/y", "b/w", "a/v"):
        touch(folder / name)
    os.mkfifo(folder / "pipe")
    assert listed(folder) == [(name, "") for name in ("z", "a/v", "a/1/y", "a/2/x", "b/w")]
    assert all(found.path == folder / found.ref for found in list_files(folder))


def test_linked_folders_are_entered_once_and_real_ones_give_the_name(folder):
    touch(folder / "archive" / "z" / "a")
    touch(folder / "volume" / "b")
    touch(folder / "volume" / "c" / "d")
    (folder / "archive" / "link").symlink_to(folder / "volume")
    (folder / "archive" / "alias").symlink_to(folder / "archive" / "z")
    (folder / "volume" / "circle").symlink_to(folder / "archive")
    (folder / "archive" / "file").symlink_to(folder / "volume" / "b")
    names = ("file", "z/a", "link/b", "link/c/d")
    assert listed(folder / "archive") == [(name, "") for name in names]
    (folder / "root").symlink_to(folder / "archive")
    assert listed(folder / "root") == [(name, "") for name in names]


def test_what_hides_files_is_found_with_a_problem(folder, request):
    touch(folder / "a" / "kept")
    touch(folder / "closed" / "hidden")
    touch(folder / "barred" / "below" / "hidden")
    (folder / "a" / "gone").symlink_to(folder / "nowhere")
    (folder / "a" / "circle").symlink_to("circle")
    (folder / "a" / "into").symlink_to(folder / "closed" / "hidden")
    (folder / "closed").chmod(0)
    (folder / "barred").chmod(0o444)
    request.getfixturevalue("without_rights")
    assert listed(folder) == [
        ("a/circle", "unreadable_file"),
        ("a/gone", "unreadable_file"),
        ("a/into", "unreadable_file"),
        ("a/kept", ""),
        ("barred/below", "unreadable_file"),
        ("closed", "unreadable_folder"),
    ]
    (closed,) = [found.problem for found in list_files(folder) if found.ref == "closed"]
    assert closed.startswith("unreadable_folder: it cannot be listed (Permission denied); check")


def test_names_that_are_not_utf_8_can_be_hashed_and_opened(folder):
    name = "颈动脉".encode("gbk")
    touch(folder / os.fsdecode(name))
    (found,) = list_files(folder)
    assert found.ref == r"\xbe\xb1\xb6\xaf\xc2\xf6"
    assert found.ref.encode()
    assert found.path.read_bytes() == b"x"
