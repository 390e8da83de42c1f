"""Feedback in SQLite, and in a real PostgreSQL where one is at hand."""

import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sonoray.errors import DataError
from sonoray.records import database
from sonoray.records.database import open_database
from sonoray.records.feedback_table import Feedback, add_feedback, iter_feedback, tables

SAID = Feedback(
    answer_id="chatcmpl-1",
    rating="bad",
    key="abcdef012345",
    model_digest="fedcba543210",
    question="病灶是良性还是恶性？",
    answer="良性",
    corrected_text="恶性",
    options=("良性", "恶性"),
    images=(b"first", b"second"),
    at="2026-01-02T03:04:05Z",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is, of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "feedback.db")
    url: str = request.getfixturevalue("postgresql")
    return url


def test_what_was_said_comes_back_and_a_later_word_replaces_it(place: str):
    engine = open_database(place, tables()[0])
    add_feedback(engine, SAID)
    add_feedback(engine, Feedback(answer_id="cmpl-2", rating="good", key="k", model_digest="m"))
    first, second = iter_feedback(engine)
    for name in Feedback.__dataclass_fields__:
        assert getattr(first, name) == getattr(SAID, name)
    assert (second.rating, second.images, len(second.at)) == ("good", (), 20)
    add_feedback(engine, Feedback(answer_id="chatcmpl-1", rating="good", key="k", model_digest="m"))
    again = list(iter_feedback(open_database(place, tables()[0], create=False)))
    assert [each.answer_id for each in again] == ["cmpl-2", "chatcmpl-1"]
    assert (again[1].rating, again[1].corrected_text, again[1].images) == ("good", "", ())
    if "://" not in place:
        assert stat.S_IMODE(Path(place).stat().st_mode) == 0o600


def test_a_database_that_is_silent_is_waited_for_no_longer_than_said(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(database, "CONNECT_TIMEOUT_S", 2)  # the least that libpq knows
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(DataError, match="cannot be used"):
            open_database(
                f"postgresql://tester@127.0.0.1:{silent.getsockname()[1]}/none", tables()[0]
            )
        assert time.monotonic() - began < 30


def test_replicas_may_begin_and_say_the_same_at_the_same_moment(place: str):
    barrier = threading.Barrier(6, timeout=120)

    def begin(number: int) -> None:
        barrier.wait()
        engine = open_database(place, tables()[0])
        barrier.wait()
        for _ in range(5):
            said = replace(SAID, answer=str(number), images=(str(number).encode(),) * 2)
            add_feedback(engine, said)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(begin, range(6)))
    (kept,) = iter_feedback(open_database(place, tables()[0], create=False))
    assert kept.images == (kept.answer.encode(),) * 2


def test_words_and_pictures_belong_together_while_a_service_writes(place: str):
    engine = open_database(place, tables()[0])
    versions = [
        replace(SAID, answer=str(number), images=(str(number).encode(),) * (number + 1))
        for number in range(4)
    ]
    for number in range(20):
        add_feedback(engine, replace(versions[0], answer_id=f"a{number}"))
    stop = threading.Event()

    def write() -> int:
        other, turn = open_database(place, tables()[0]), 0
        while not stop.is_set():
            add_feedback(other, replace(versions[turn % 4], answer_id=f"a{turn % 20}"))
            if turn < 20:
                add_feedback(other, replace(versions[1], answer_id=f"new{turn}"))
            turn += 1
            time.sleep(0.001)
        return turn

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for _ in range(4):
                found = list(iter_feedback(engine))
                ids = [each.answer_id for each in found]
                assert len(set(ids)) == len(ids)
                assert {f"a{number}" for number in range(20)} <= set(ids)
                for each in found:
                    assert each.images == (each.answer.encode(),) * (int(each.answer) + 1)
        finally:
            stop.set()
        assert writing.result() > 0


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/feedback.db", "there is no database"),
        ("what://ever:secret-word@host/x", "is no database URL"),
        ("postgresql://nobody:secret-word@127.0.0.1:1/none", "cannot be used"),
    ],
)
def test_what_cannot_be_opened_is_said_without_a_password(place: str, said: str):
    with pytest.raises(DataError, match=said) as caught:
        open_database(place, tables()[0], create=False)
    assert "secret-word" not in str(caught.value)
