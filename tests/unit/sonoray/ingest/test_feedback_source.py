"""Feedback as a source: every row becomes a turn, or a counted reject."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.ingest.feedback_source import FeedbackSource
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.run import ingest
from sonoray.records.database import open_database
from sonoray.records.feedback_table import Feedback, add_feedback, tables
from sonoray.study.contract import Task, iter_studies
from sonoray.workspace import Workspace


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 80), dtype=np.uint8)
    return encode_png(np.kron(pixels[:16, :20], np.ones((4, 4), np.uint8)))


def fill(path: Path, *rows: dict[str, Any]) -> None:
    engine = open_database(str(path), tables()[0])
    for number, row in enumerate(rows):
        given = {"rating": "good", "question": "良性还是恶性？", "answer": "良性", **row}
        add_feedback(engine, Feedback(answer_id=f"a{number}", key="k", model_digest="m", **given))


ROWS = (
    {"images": (png(1), png(2))},
    {"images": (png(1), png(2)), "question": "请描述。", "answer": "低回声。"},
    {"images": (png(3),), "rating": "bad", "corrected_text": "恶性", "options": ("良性", "恶性")},
    {"images": (png(3),), "rating": "bad", "corrected_text": "不确定"},
    {"images": (png(4),), "rating": "bad"},
    {"images": ()},
    {"images": (png(5),), "question": " "},
)


def test_what_can_be_learned_from_is_a_turn_and_all_else_is_counted(tmp_path: Path):
    fill(tmp_path / "feedback.db", *ROWS)
    source = FeedbackSource(str(tmp_path / "feedback.db"))
    studies = list(source.iter_studies())
    kept = [study for study in studies if not study.problem]
    assert [len(study.images) for study in kept] == [2, 1]
    assert [[turn.answer for turn in study.turns] for study in kept] == [
        ["良性", "低回声。"],
        ["不确定"],
    ]
    refused = [study.problem.partition(":")[0] for study in studies if study.problem]
    assert refused == ["superseded", "no_correction", "no_images", "no_question"]
    assert len(studies) == 6
    assert len({study.ref for study in studies}) == 6


def test_a_choice_among_options_stays_a_closed_question(tmp_path: Path):
    fill(tmp_path / "feedback.db", ROWS[2])
    (study,) = FeedbackSource(str(tmp_path / "feedback.db")).iter_studies()
    (turn,) = study.turns
    assert (turn.task, turn.options, turn.answer) == (Task.CLOSED, ("良性", "恶性"), "恶性")


def test_the_digest_follows_what_was_said(tmp_path: Path):
    path = tmp_path / "feedback.db"
    fill(path, ROWS[0])
    first = FeedbackSource(str(path)).input_digest()
    assert FeedbackSource(str(path)).input_digest() == first
    fill(path, {**ROWS[0], "answer": "恶性"})
    assert FeedbackSource(str(path)).input_digest() != first


def test_what_is_said_while_it_is_read_loses_and_doubles_nothing(tmp_path: Path):
    path = tmp_path / "feedback.db"
    fill(path, ROWS[0], {**ROWS[2], "options": ()}, ROWS[4])
    found = FeedbackSource(str(path)).iter_studies()
    assert next(found).problem.startswith("no_correction")  # rows are judged before studies come
    fill(path, {**ROWS[0], "images": (png(9),)}, {**ROWS[2], "corrected_text": "良性"})
    gone, kept = found
    assert gone.problem == "superseded: somebody said something else while this was read"
    assert [turn.answer for turn in kept.turns] == ["恶性"]  # as it was when reading began
    assert len(kept.images) == 1


def test_it_is_ingested_as_any_source_with_its_accounting(tmp_path: Path):
    fill(tmp_path / "feedback.db", *ROWS)
    workspace = Workspace.open(tmp_path / "workspace")
    output = ingest(FeedbackSource(str(tmp_path / "feedback.db")), workspace, IngestConfig())
    summary = output.manifest["summary"]
    assert summary["studies"]["kept"] == 2
    assert summary["rows"] == 4
    assert {"superseded", "no_correction", "no_images", "no_question"} <= summary["reasons"].keys()
    texts = [turn.answer for study in iter_studies(output.path) for turn in study.turns]
    assert sorted(texts) == sorted(["良性", "低回声。", "不确定"])


def test_no_database_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="there is no database"):
        FeedbackSource(str(tmp_path / "none.db"))
