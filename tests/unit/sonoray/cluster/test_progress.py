import contextlib
import os
import pty
import subprocess
import sys

import pytest

from sonoray.cluster.progress import progress


def test_items_pass_through_and_one_line_goes_to_stderr(capsys):
    assert list(progress(iter("abc"), "spell [words]")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("spell [words]: 3 in ")
    assert captured.err.count("\n") == 1


def test_items_count_by_their_size(capsys):
    assert list(progress(iter(["ab", "c"]), "letters", 3, size=len)) == ["ab", "c"]
    assert capsys.readouterr().err.startswith("letters: 3 in ")


@pytest.mark.parametrize(
    ("step_s", "notes"),
    [
        (0.1, []),
        (
            1.0,
            [
                "count: 61 of 200 in 100 s, about 2 min left",
                "count: 121 of 200 in 160 s, about 79 s left",
            ],
        ),
        (100.0, ["count: 2 of 200 in 140 s, about 6 h left"]),
    ],
)
def test_a_long_loop_says_now_and_then_how_much_time_is_left(capsys, monkeypatch, step_s, notes):
    """After 40 s of start-up an item comes every `step_s`; the clock is the loop's."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def source():
        now[0] = 40.0
        for number in range(200):
            yield number
            now[0] += step_s

    assert list(progress(source(), "count", 200)) == list(range(200))
    lines = capsys.readouterr().err.splitlines()
    assert lines[: len(notes)] == notes
    if step_s < 100:
        assert len(lines) == len(notes) + 1
    else:  # 1, 2, 4 ... 128 steps after the first item
        assert len(lines) == 8 + 1


def test_an_interrupted_loop_claims_nothing(capsys):
    for item in progress(range(5), "count"):
        if item == 2:
            break
    assert capsys.readouterr().err == ""


def test_errors_of_the_loop_pass_through():
    def failing():
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(progress(failing(), "fail"))


def test_it_is_lazy():
    taken = []

    def source():
        for number in range(3):
            taken.append(number)
            yield number

    next(iter(progress(source(), "look")))
    assert taken == [0]


def read_all(leader):
    """What was written to a terminal whose writers are gone; one read may give a part of it."""
    written = b""
    with contextlib.suppress(OSError):  # Linux ends a pty that nobody holds with EIO
        while part := os.read(leader, 100_000):
            written += part
    return written.decode()


def test_a_terminal_gets_a_bar_with_the_total():
    leader, follower = pty.openpty()
    code = "from sonoray.cluster.progress import progress\nlist(progress([1, 2, 3], 'draw'))"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=follower, env=environment, check=True)
    os.close(follower)
    screen = read_all(leader)
    os.close(leader)
    assert "draw" in screen
    assert "3/3" in screen
    assert " in " not in screen


def test_stdout_stays_clean_in_a_pipe():
    code = "from sonoray.cluster.progress import progress\nfor n in progress([1], 'x'): print(n)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert done.stderr.startswith("x: 1 in ")
