"""Whatever is done to a line of the log is noticed."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.errors import DataError, ServingError
from sonoray_serve.keys.audit_log import AuditLog
from sonoray_serve.keys.log_chain import verify

DIGEST = "ab" * 32


def write(folder: Path, count: int = 6) -> Path:
    log = AuditLog(folder)
    for number in range(count):
        log.add(key_digest=DIGEST, path="/v1/models", status=200 + number, took_s=0.5)
    (path,) = folder.glob("*.jsonl")
    return path


def test_a_log_is_whole_and_private(tmp_path: Path):
    path = write(tmp_path / "log")
    found = verify(tmp_path / "log")
    assert (found.exit_code, found.broken) == (0, [])
    assert found.files[0][:2] == (path.name, 6)
    assert path.stat().st_mode & 0o777 == 0o600
    first = json.loads(path.read_text().splitlines()[0])
    assert first["key"] == DIGEST[:12]
    assert first.keys() == {"at", "key", "path", "status", "took_s", "before"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_but_at_the_end_breaks_the_chain(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("log")
    path = write(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, 4))  # the last line has none behind it that would tell
    match data.draw(st.sampled_from(["change", "remove", "double", "swap"])):
        case "change":
            spot = data.draw(st.integers(0, len(lines[place]) - 2))
            old = lines[place]
            lines[place] = old[:spot] + bytes([old[spot] ^ 1]) + old[spot + 1 :]
        case "remove":
            del lines[place]
        case "double":
            lines.insert(place, lines[place])
        case "swap":
            lines[place], lines[place + 1] = lines[place + 1], lines[place]
    path.write_bytes(b"".join(lines))
    assert verify(folder).exit_code == 1


def test_a_line_that_was_half_written_breaks_it(tmp_path: Path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    assert verify(tmp_path).broken == [f"{path.name}: the chain breaks at line 6"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot be written to"):
        AuditLog(tmp_path / "file" / "log")


def test_no_log_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="holds no audit log"):
        verify(tmp_path)
