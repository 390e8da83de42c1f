"""Feedback in SQLite, and in a real PostgreSQL where one is at hand."""

import stat
from pathlib import Path

import pytest

from sonoray.errors import DataError
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


def test_what_was_said_comes_back_and_a_later_word_replaces_it(tmp_path: Path):
    path = tmp_path / "feedback.db"
    engine = open_database(str(path), tables()[0])
    add_feedback(engine, SAID)
    add_feedback(engine, Feedback(answer_id="cmpl-2", rating="good", key="k", model_digest="m"))
    first, second = iter_feedback(engine)
    for name in Feedback.__dataclass_fields__:
        assert getattr(first, name) == getattr(SAID, name)
    assert (second.rating, second.images, len(second.at)) == ("good", (), 20)
    add_feedback(engine, Feedback(answer_id="chatcmpl-1", rating="good", key="k", model_digest="m"))
    again = list(iter_feedback(open_database(str(path), tables()[0], create=False)))
    assert [each.answer_id for each in again] == ["cmpl-2", "chatcmpl-1"]
    assert (again[1].rating, again[1].corrected_text, again[1].images) == ("good", "", ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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
