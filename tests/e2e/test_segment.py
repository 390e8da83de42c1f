"""Text to mask on a finished road: states, a segmenter, its judgement, what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from llava_ultra.segmentation.segmenter import Segmenter
from sonoray.errors import DataError
from sonoray.images.decode import decode_stored
from sonoray.study.contract import iter_studies
from sonoray.study.image_table import iter_masks
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.segmentation import segment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ASKED = [{"text": "分割病灶。"}, {"text": "分割左侧病灶。", "where": {"side": "left"}}]
QUICK = {
    "segment.instructions": ASKED,
    "segment.steps": 8,
    "segment.batch_size": 4,
    "segment.width": 8,
    "segment.heads": 1,
    "segment.hidden": 8,
    "segment.written_for": "请描述这组超声图像。",
}


def test_a_segmenter_is_judged_on_the_masks_of_the_split(finished_road):
    given = {
        "workspace": finished_road.workspace,
        "road": with_values(finished_road.road, QUICK),
        "dataset": "phantom",
        "run": finished_road.trained.name,
        "gallery": 1,
    }
    found = segment.run(**given)
    folder = finished_road.workspace.dataset("phantom").path
    studies = list(iter_studies(folder, split="test"))
    masks = dict(iter_masks(folder, {each.image_id for study in studies for each in study.images}))
    rows = pq.read_table(found.output.path / "outlines.parquet").to_pylist()
    assert len(rows) == 2 * len(masks)
    for row in rows:
        truth = masks[row["image_id"]] > 0
        scores = json.loads(row["scores"])
        assert row["has_target"] <= truth.any()
        assert decode_stored(row["mask_png"]).shape == truth.shape
        assert {"words", "none", "mean mask"} <= scores.keys()
        assert ("boxes" in scores) == ("points" in scores) == row["has_target"]
        if row["has_target"]:
            mask = decode_stored(row["mask_png"]) > 0
            total = mask.sum() + truth.sum()
            assert scores["words"][0] == pytest.approx(2 * (mask & truth).sum() / total)
            assert row["unit"] == "mm"
    whole = found.values["instructions"]["all"]
    assert whole["num_images"] == sum(row["has_target"] for row in rows)
    assert found.pictures is not None
    assert found.pictures.with_name("image-01.png").is_file()
    assert any("words minus none" in line for line in found.lines())

    segmenter = Segmenter.load(found.output.path)
    assert segmenter.shape.state_width == finished_road.road.model.language.hidden_size
    (told,) = finished_road.workspace.stages.glob("tell-phantom-test-*")
    states = np.load(told / "told.npz")["states"]
    assert states.shape == (found.values["num_train"] + len(masks), 2, segmenter.shape.state_width)
    assert np.abs(states[:, 0] - states[:, 1]).max() > 0
    assert set(json.loads((told / "written.json").read_text())) >= set(masks)
    assert segment.run(**given).output.reused


def test_what_cannot_be_outlined_is_refused(finished_road, monkeypatch):
    given = {"workspace": finished_road.workspace, "dataset": "phantom"}
    with pytest.raises(DataError, match="choose validation or test"):
        segment.run(**given, road=finished_road.road, split="train")
    asked = [{"text": "x", "level": 7}]
    road = with_values(finished_road.road, {**QUICK, "segment.instructions": asked})
    with pytest.raises(DataError, match="no training mask holds the value 7"):
        segment.run(**given, road=road)
    monkeypatch.setattr("sonoray.features.store.FeatureStore.missing", lambda _, ids: list(ids))
    with pytest.raises(DataError, match=r"have no features of SAM .*run: sonoray embed"):
        segment.run(**given, road=with_values(finished_road.road, QUICK))
