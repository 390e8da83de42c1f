"""Document questions on a finished road: pages made, read, asked of the exported model, judged."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from sonoray.documents.page_folder import read_pages
from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.images.fonts import find_font
from sonoray.study.contract import Task, iter_studies
from sonoray.tracking.connection import open_store
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.documents import ask_pages, make_pages

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK = {"documents.records": 1, "documents.kinds": ["screenshot"], "evaluate.actors": 1}


@pytest.fixture(scope="module")
def road(finished_road):
    if find_font(["超声检查报告单↑↓"]) is None:
        pytest.skip("no font with Chinese: apt-get install fonts-noto-cjk")
    return with_values(finished_road.road, QUICK)


def test_pages_are_read_and_questions_answered(finished_road, road, tmp_path):
    workspace = finished_road.workspace
    made = make_pages.run(workspace=workspace, road=road, out=tmp_path)
    given = {
        "workspace": workspace,
        "road": road,
        "folder": tmp_path,
        "model": str(finished_road.exported.path),
    }
    found = ask_pages.run(**given)
    values = found.values
    assert values["num_questions"] == made.num_questions
    assert values["reading"]["screenshot"]["character_error_rate"]["value"] < 0.05
    ways = values["answers"]["ways"]
    assert set(ways) == {"constant", "lookup", "lookup, true text", "text", "image"}
    assert ways["lookup, true text"]["entity"]["value"] == 1
    assert ways["lookup"]["entity"]["value"] > 0.9
    rows = pq.read_table(found.output.path / "answers.parquet").to_pylist()
    assert Counter(row["way"] for row in rows) == dict.fromkeys(ways, made.num_questions)
    options = {each.question: each.options for each in read_pages(tmp_path)[0].questions}
    for row in rows:
        if row["way"] in ("text", "image") and options[row["question"]]:
            assert row["answer"] in options[row["question"]]
    told = "\n".join([*found.lines(), (found.output.path / "documents.json").read_text()])
    name = read_pages(tmp_path)[0].fields["姓名"]
    assert name not in told
    store = open_store(workspace, None)
    logged = store.client.get_run(values["run_id"]).data.metrics
    assert any(key.startswith("documents/") and "lookup" in key for key in logged)
    assert ask_pages.run(**given).output.reused


def test_reports_of_a_dataset_become_pages(finished_road, road, tmp_path):
    given = {"workspace": finished_road.workspace, "road": road, "out": tmp_path}
    made = make_pages.run(**given, dataset="phantom")
    (page,) = read_pages(tmp_path)
    folder = finished_road.workspace.dataset("phantom").path
    reports = {
        turn.answer
        for study in iter_studies(folder)
        for turn in study.turns
        if turn.task is Task.REPORT
    }
    assert page.fields["超声所见"] in reports
    assert made.num_questions == len(page.questions) >= 2


def test_a_page_without_text_is_refused(finished_road, road, tmp_path):
    (tmp_path / "blank.png").write_bytes(encode_png(np.full((64, 64), 255, np.uint8)))
    asked = {"page": "blank.png", "question": "姓名？", "answer": "李四", "task": "entity"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    with pytest.raises(DataError, match=r"nothing can be read on page 'blank.png' \(1 of 1"):
        ask_pages.run(workspace=finished_road.workspace, road=road, folder=tmp_path)
    (tmp_path / "questions.jsonl").write_text("\n{}\n")
    with pytest.raises(DataError, match=r"questions\.jsonl line 2: page: field required"):
        ask_pages.run(workspace=finished_road.workspace, road=road, folder=tmp_path)
