"""What an evaluation writes from its predictions."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sonoray.stages import Stage, run_stage
from sonoray_jobs.evaluation.evaluate import Evaluated
from sonoray_jobs.evaluation.judge import write_report
from sonoray_jobs.evaluation.predictions import headlines, to_record
from sonoray_jobs.road.config import EvaluateConfig

SETTINGS = EvaluateConfig(bootstrap_samples=1000, positive_options={"pathology": "恶性"})


REPORTS = ["左叶见低回声结节，边界清。", "未见明显异常。", "右叶见囊性病灶，边界清。"]


TRAINING = {"pathology": ["良性", "良性", "恶性"], "report": [REPORTS[1], REPORTS[1], REPORTS[2]]}


def predictions():
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        truth = ("良性", "恶性")[number % 2]
        scores = dict(zip(("良性", "恶性"), generator.normal(size=2).tolist(), strict=True))
        common = {
            "study_id": f"s{number}",
            "patient_key": f"p{number // 2}",
            "showing": ([1, 0], [0, 1], [-1, -1])[number % 3],
            "attention_pick": (0, 1, -1)[number % 3],
            "image_ids": ["a", "b"],
            "selected": [0],
            "is_cut": number < 3,
        }
        rows.append(
            common
            | {
                "topic": "pathology", "task": "closed", "truth": truth, "generated": "良性",
                "answer": max(scores, key=scores.get), "option_scores": json.dumps(scores),
            }
        )  # fmt: skip
        rows.append(
            common
            | {
                "topic": "report", "task": "report", "truth": REPORTS[number % 3],
                "answer": REPORTS[1], "generated": REPORTS[1], "option_scores": "{}",
            }
        )  # fmt: skip
    return rows


@pytest.fixture
def report(tmp_path):
    metrics = write_report(tmp_path, predictions(), TRAINING, SETTINGS)
    return tmp_path, metrics


def test_metrics_of_both_kinds_of_questions(report):
    _, metrics = report
    assert (metrics["num_studies"], metrics["num_questions"]) == (12, 24)
    assert metrics["num_cut"] == 6
    assert metrics["hit_rate"]["value"] == 0.5
    assert metrics["hit_rate"]["low"] < 0.5 < metrics["hit_rate"]["high"]
    assert metrics["chance_hit_rate"]["value"] == 0.5
    told = metrics["attention_hit_rates"]
    assert {topic: rate["value"] for topic, rate in told.items()} == {"pathology": 1, "report": 1}
    assert metrics["generated_exact"] == 0.5
    closed = metrics["closed"]["pathology"]
    assert closed["positive_f1"]["value"] >= 0
    assert closed["constant_accuracy"]["value"] == 0.5
    overall = metrics["all_closed"]
    assert overall["accuracy"] == closed["accuracy"]  # there is one topic
    assert overall["constant_accuracy"] == closed["constant_accuracy"]
    text = metrics["text"]["report"]
    assert text["exact_match"]["value"] == pytest.approx(1 / 3)
    assert text["constant"]["char_bleu_4"] == text["overlap"]["char_bleu_4"]
    assert (text["num_seen"], text["seen_share"]) == (8, pytest.approx(2 / 3))
    assert text["seen"]["exact_match"]["value"] == 0.5
    assert text["unseen"]["exact_match"]["value"] == 0


def test_mlflow_gets_the_headlines_alone(report):
    _, metrics = report
    shown = headlines(metrics, "test")
    assert set(shown) == {
        "test/accuracy", "test/hit_rate", "test/chance_hit_rate", "test/pathology/accuracy",
        "test/pathology/balanced_accuracy", "test/pathology/auc", "test/report/exact_match",
        "test/report/char_f1",
    }  # fmt: skip
    assert shown["test/pathology/auc"] == metrics["closed"]["pathology"]["auc"]["value"]
    assert shown["test/report/exact_match"] == pytest.approx(1 / 3)
    nothing = {"closed": {}, "text": {}, "all_closed": None, "consistency": None}
    assert headlines({**nothing, "hit_rate": None, "chance_hit_rate": None}, "test") == {}


def test_a_pick_counts_only_where_an_image_was_left_out(tmp_path):
    rows = predictions()
    for row in rows[:6]:
        row["selected"] = [0, 1]
    left = [row["showing"][0] for row in rows[6:] if 1 in row["showing"]]
    metrics = write_report(tmp_path, rows, TRAINING, SETTINGS)
    assert metrics["hit_rate"]["value"] == pytest.approx(sum(left) / len(left))
    for row in rows:
        row["selected"] = [0, 1]
    metrics = write_report(tmp_path, rows, TRAINING, SETTINGS)
    assert (metrics["hit_rate"], metrics["attention_hit_rates"]) == (None, {})


def test_only_the_file_of_constant_texts_holds_a_text(report):
    folder, metrics = report
    assert {path.name for path in folder.iterdir()} == {
        "closed.md", "closed.txt", "constant_texts.json", "metrics.json", "roc.png", "scores.png",
        "text.md", "text.txt",
    }  # fmt: skip
    assert json.loads((folder / "constant_texts.json").read_text(encoding="utf-8")) == {
        "report": REPORTS[1]
    }
    for path in folder.iterdir():
        if path.suffix in {".md", ".txt"} or path.name == "metrics.json":
            assert "异常" not in path.read_text(encoding="utf-8")
    read = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(metrics))


def test_the_terminal_gets_the_compact_tables_and_markdown_all(report):
    folder, _ = report
    compact = (folder / "text.txt").read_text(encoding="utf-8").splitlines()
    assert len(compact) == 2
    assert max(map(len, compact)) < 150
    closed = (folder / "closed.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("  ")[0] for line in closed] == [
        "topic",
        "pathology",
        "all closed questions",
        "",
        "topic",
        "pathology",
    ]
    assert "sensitivity" in closed[4]
    page = (folder / "text.md").read_text(encoding="utf-8")
    for name in ("METEOR", "ROUGE-2", "constant answer", "truth not seen"):
        assert f"| {name} |" in page
    assert "| F1 of the positive option |" in (folder / "closed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_lines_name_the_split_and_what_was_written(tmp_path, split):
    def make(folder: Path):
        return write_report(folder, predictions()[1::2], TRAINING, SETTINGS)

    output = run_stage(Stage(name=f"evaluate-x-{split}", config={}), tmp_path, make)
    result = Evaluated(output=output, split=split)
    lines = result.lines()
    assert lines[0].startswith(f"{split}: 12 questions of 12 studies")
    assert lines[1].startswith("topic")  # no empty table of closed questions
    picks = next(line for line in lines if line.startswith("image sampled first"))
    assert re.fullmatch(r".* finding: 0\.500 \[0\.\d{3}, .*\], a random one 0\.500", picks)
    assert f"predictions: {output.path / 'predictions.parquet'}" in lines
    assert not (output.path / "scores.png").exists()
    assert json.dumps(result.to_json())
    assert result.to_json()["gallery"] is None


def test_a_record_is_the_prediction_in_the_metrics_terms():
    closed, free = map(to_record, predictions()[:2])
    assert closed.options == ("良性", "恶性")
    assert (free.options, free.truth, free.answer) == ((), REPORTS[0], REPORTS[1])


def test_without_closed_questions_no_share_of_them_was_generated_right(tmp_path):
    reports = [row for row in predictions() if row["task"] == "report"]
    metrics = write_report(tmp_path, reports, TRAINING, SETTINGS)
    assert metrics["generated_exact"] is None
