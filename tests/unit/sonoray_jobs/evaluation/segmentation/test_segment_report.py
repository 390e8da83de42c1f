"""Numbers of outlines, on rows whose scores are known."""

import pytest

from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.segmentation.segment_report import (
    differences_table,
    judge_outlines,
    outlines_table,
    size_lines,
)

TEXTS = ("分割病灶。", "分割钙化。")
COMPARED = [("none", "words"), ("wrong words", "words")]
BOOTSTRAP = Bootstrap(num_resamples=1000)


def row(patient, instruction, words, none, **more):
    own = {"words": [words, words / 2], "none": [none, none / 2]}
    return {
        "patient_key": patient,
        "instruction": instruction,
        "has_target": True,
        "scores": own,
        **more,
    }


@pytest.fixture(scope="module")
def values():
    rows = [row(f"p{n % 5}", 0, 0.8, 0.5 + 0.02 * (n % 5)) for n in range(10)]
    size = {"unit": "mm", "diameter": 11.0, "true_diameter": 12.0, "area": 90.0, "true_area": 100.0}
    rows[0] |= size
    rows[1] |= {**size, "diameter": 14.0, "area": 110.0}
    rows[2] |= {**size, "diameter": 0.0, "area": 0.0}
    rows += [row("p0", 1, 0.2, 0.1), {**row("p1", 1, 1.0, 0.0), "has_target": False}]
    rows += [{**row("p2", 1, 0.0, 0.0), "has_target": False}]
    return judge_outlines(rows, TEXTS, ["words", "none"], COMPARED, BOOTSTRAP)


def test_means_are_over_images_with_a_target(values):
    first, second, whole = values["instructions"].values()
    assert (first["num_images"], first["num_patients"], first["num_empty"]) == (10, 5, 0)
    assert first["ways"]["words"]["dice"]["value"] == pytest.approx(0.8)
    assert first["ways"]["none"]["iou"]["value"] == pytest.approx(0.27)
    assert (second["num_images"], second["num_empty"]) == (1, 2)
    assert second["left_empty"]["words"]["value"] == pytest.approx(0.5)
    assert whole["ways"]["words"]["dice"]["value"] == pytest.approx((10 * 0.8 + 0.2) / 11)
    found = first["differences"]["words minus none"]
    assert found["value"] == pytest.approx(0.26)
    assert 0.2 < found["low"] < found["value"] < found["high"] < 0.3
    assert "words minus wrong words" not in first["differences"]  # nothing was outlined so


def test_sizes_are_of_masks_that_are_not_empty(values):
    found = values["sizes"]["mm"]
    assert (found["num_images"], found["num_empty"]) == (3, 1)
    assert found["diameter_error"]["value"] == pytest.approx(1.5)
    assert found["diameter_bias"]["value"] == pytest.approx(0.5)
    assert found["true_area"]["value"] == pytest.approx(100)
    (line,) = size_lines(values)
    assert line.startswith("sizes in mm, 3 masks (1 left empty): diameter off by 1.500")
    assert "area off by 10.000" in line


def test_tables_have_a_row_for_each(values):
    table = outlines_table(values)
    assert table.header[2:] == ("words", "none", "no target: left empty by words")
    assert [cells[0] for cells in table.rows] == [*TEXTS, "all"]
    assert table.rows[0][1] == "10 (5)"
    assert table.rows[1][-1].endswith("of 2")
    assert [cells[0] for cells in differences_table(values).rows] == ["words minus none"]
