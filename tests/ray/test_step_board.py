"""The board of a real session, written to by hand."""

import re
import time

import pytest

from sonoray.cluster.step_board import StepBoard

pytestmark = pytest.mark.ray


def test_each_part_gets_one_line_when_it_ends(ray_local, capsys):
    board = StepBoard.start()
    clip, sam = board.poster("clip"), board.poster("sam")
    with board.watching():
        for step in range(1, 101):
            clip(step, 100, 1 / step)  # far more often than the board is told
        sam(1, 100, 2.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"clip: 100 steps after \d+\.\d s, loss 0\.010", lines[0])


def test_a_workers_posts_reach_the_board_at_most_twice_a_second(ray_local):
    import ray

    board = StepBoard.start()

    @ray.remote(num_cpus=0)
    def work(board: StepBoard) -> list[tuple[int, int, str]]:
        post = board.poster("clip")
        post(1, 100, 3.0)
        post(2, 100, 2.0)
        early = board.read()["clip"]
        post(100, 100, 1.0)  # the last one, however soon
        return [early, board.read()["clip"]]

    assert ray.get(work.remote(board)) == [(1, 100, "loss 3.000"), (100, 100, "loss 1.000")]


def test_a_part_that_takes_long_says_how_it_goes_every_while(ray_local, capsys, monkeypatch):
    monkeypatch.setattr("sonoray.cluster.step_board._LINE_EVERY_S", 0.6)
    said: list[str] = []

    def wait_for_line(pattern: str) -> None:
        deadline = time.monotonic() + 60
        while not any(re.fullmatch(pattern, line) for line in said):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
            said.extend(capsys.readouterr().err.splitlines())

    board = StepBoard.start()
    clip, sam = board.poster("clip"), board.poster("sam")
    with board.watching():
        sam(1, 9, 0.5)
        clip(10, 100, 2.0)
        wait_for_line(r"sam: step 1 of 9, none in \d+ s, loss 0\.500")
        wait_for_line(r"clip: step 10 of 100, none in \d+ s, loss 2\.000")
        clip(60, 100, 1.0)
        wait_for_line(
            r"clip: step 60 of 100, \d[\d.e+]* steps/s, about \d+ (s|min) left, loss 1\.000"
        )
        board.say("something to know")
        clip(100, 100, 0.5)
    said.extend(capsys.readouterr().err.splitlines())
    assert "something to know" in said
    assert said[-1].startswith("clip: 100 steps after ")
