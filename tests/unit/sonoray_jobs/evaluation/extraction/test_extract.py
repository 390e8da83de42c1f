"""Extraction from a dataset of texts alone: a tiny decoder, its roles, both ways of decoding."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.ingest.source_options import SourceOptions
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.extraction import extract
from sonoray_jobs.road.config import RoadConfig, load_road

ECHOES, SIDES, EDGES = ("低回声", "无回声", "等回声"), ("左侧", "右侧"), ("清晰", "欠清晰")
TINY = {
    "model.language.hidden_size": 32,
    "model.language.num_layers": 2,
    "model.language.num_heads": 2,
    "model.language.intermediate_size": 64,
    "bootstrap.language.steps": 10,
    "bootstrap.language.batch_size": 4,
    "extract.roles.steps": 6,
    "extract.roles.batch_size": 4,
    "extract.max_tokens": 12,
    "extract.at_once": 4,
}


def reports() -> list[str]:
    """Different ones, of known fields."""
    return [
        f"{side}乳腺见一{echo}结节，大小约_2DS_，边界{edge}，第{number}例。"
        for side in SIDES
        for echo in ECHOES
        for edge in EDGES
        for number in "一二"
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, RoadConfig]:
    folder = tmp_path_factory.mktemp("reports")
    texts = reports()
    parts = {"train": texts[:18], "val": [*texts[18:], texts[18], texts[0]]}
    items = {
        split: [
            {
                "uid": 100 * place + number,
                "finding": text,
                "image_path": [],
                "labels": 0,
                "split": split,
            }
            for number, text in enumerate(found)
        ]
        for place, (split, found) in enumerate(parts.items())
    }
    path = folder / "Mammary_trainval.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    workspace = Workspace.open(folder / ".sonoray", create=True)
    road = with_values(load_road("tiny"), TINY)
    options = SourceOptions(path=Path(folder), split="published")
    ingest.run(workspace=workspace, road=road, dataset="usreport", options=options)
    return workspace, road


def test_fields_are_read_plainly_and_by_contrast(made: tuple[Workspace, RoadConfig]):
    workspace, road = made
    given = {"workspace": workspace, "dataset": "usreport", "split": "validation"}
    plain = extract.run(road=road, **given)
    # of 8 reports one is in the training, and two are equal
    assert (plain.values["num_reports"], plain.values["num_judged"]) == (8, 6)
    assert plain.values["contrast"] is None
    assert plain.values["plain"]["recall"] is not None
    counts = plain.values["plain"]["fields"]
    assert {name: each["true"] for name, each in counts.items()} == {
        "器官": 6,
        "大小": 6,
        "回声": 6,
        "边缘": 6,
        "分级": 0,
    }

    other = extract.run(road=with_values(road, {"extract.contrast.strength": 0.5}), **given)
    assert other.values["plain"] == plain.values["plain"]
    assert set(other.values["differences"]) <= set(other.values["plain"])
    assert other.values["time_ratio"] > 0
    assert any("times)" in line for line in other.lines())
    rows = pq.read_table(other.output.path / "fields.parquet")
    assert rows.column_names == ["study_id", "field", "value", "in_report"]
    assert rows.num_rows == other.values["contrast"]["num_stated"]
    # the decoder and its adapters were made once
    assert len(list(workspace.stages.glob("extract-roles-usreport-*"))) == 1
    assert len(list(workspace.stages.glob("bootstrap-language-*"))) == 1
    assert extract.run(road=road, **given).output.reused


def test_adapters_that_share_no_batch_are_refused_before_they_are_trained(
    made: tuple[Workspace, RoadConfig],
):
    workspace, road = made
    dora = with_values(road, {"extract.lora.variant": "dora"})
    with pytest.raises(ConfigError, match=r"^extract\.lora\.variant 'dora'"):
        extract.run(workspace=workspace, road=dora, dataset="usreport", split="validation")


def test_what_cannot_be_judged_is_one_line(made: tuple[Workspace, RoadConfig]):
    workspace, road = made
    for split, told in {
        "train": "choose validation or test",
        "test": "0 reports of split test",
    }.items():
        with pytest.raises(DataError, match=told):
            extract.run(workspace=workspace, road=road, dataset="usreport", split=split)
