"""A job's exit status in its own log."""

import subprocess
import sys

import pytest

from sonoray_jobs.cluster.job_status import IS_JOB, LogReader, last_line

TEXT = "read 3 studies\nerror: no such run\nexit status 2\n"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_status_is_found_however_the_log_is_cut(size):
    handed = []
    log = LogReader(handed.append)
    for start in range(0, len(TEXT), size):
        log(TEXT[start : start + size])
    assert "".join(handed) == TEXT
    assert log.status == 2
    told = "its command ended with exit status 2 (Oh: failed to get job supervisor.)"
    assert log.ending(None, "Oh: failed to get\njob supervisor.") == (2, told)
    assert log.ending(124, "exit code 124") == (124, "exit code 124")
    assert log.ending(None, "stopped by the user") == (1, "stopped by the user")
    log.begin()
    assert log.ending(None, "failed to get job supervisor") == (1, "failed to get job supervisor")


@pytest.mark.parametrize(
    "text",
    [
        "the exit status 2\n",
        "exit status 2 was seen\n",
        "exit status 2",  # cut off
        "x" * 100 + "exit status 2\n",
        "exit status -2\n",
    ],
)
def test_what_only_looks_like_a_status_is_none(text):
    log = LogReader(lambda _: None)
    for letter in text:
        log(letter)
    assert log.status is None
    assert log.ending(None, "  why\n it failed ") == (1, "why it failed")
    assert log.ending(-9, "") == (1, "no reason given")


def test_a_command_says_its_status_as_a_job_alone(monkeypatch):
    monkeypatch.delenv(IS_JOB, raising=False)
    assert last_line(2) == ""
    monkeypatch.setenv(IS_JOB, "{}")
    assert last_line(2) == "exit status 2"
    assert last_line("why") == "exit status 1"
    assert last_line(0) == last_line(None) == ""


@pytest.mark.parametrize("words", [("runs", "--no-such-option"), ("embed", "--config", "none")])
def test_the_last_line_of_a_failed_command_is_its_status(words, tmp_path, monkeypatch):
    monkeypatch.setenv(IS_JOB, "{}")
    command = [sys.executable, "-m", "sonoray_jobs.cli", *words, "--workspace", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "exit status 2"
    log = LogReader(lambda _: None)
    log(done.stderr)
    assert log.status == 2
