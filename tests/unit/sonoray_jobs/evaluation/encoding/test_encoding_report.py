"""Instructions beside none, on planted states."""

import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.study.contract import Study, StudyImage, Turn
from sonoray_jobs.evaluation.encoding.encoding_report import (
    instructions_table,
    judge_states,
    targets_table,
)
from sonoray_jobs.evaluation.encoding.targets import Targets

NUM = 100


def studies():
    return [
        Study(
            study_id=f"s{number}", patient_key=f"p{number}", split="test", dataset="d",
            images=(StudyImage(image_id=f"i{number}", uri="", width=8, height=8),),
            turns=(Turn(question="?", answer="!"),),
        )
        for number in range(NUM)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def judged():
    """Two instructions, three layers; the second one's last layer knows `size`, none's does not."""
    rng = np.random.default_rng(0)
    size = rng.standard_normal(NUM)
    states = rng.standard_normal((NUM, 2, 3, 6))
    states[:, 1, 2, 0] = 5 * size
    towers = {"clip": rng.standard_normal((NUM, 4)), "sam": size[:, None] * np.ones(3)}
    known = [f"s{number}" for number in range(NUM)]
    noise = rng.standard_normal(NUM)
    targets = Targets(
        measured={
            "size": {name: [value, value] for name, value in zip(known, size, strict=True)},
            "noise": {name: [noise[at]] for at, name in enumerate(known[:60])},
        },
        left_out={"gone": "is the same for all studies"},
    )
    return judge_states(
        studies(), states, towers, targets, ["", "how large is it?"], Bootstrap(num_resamples=1000)
    )


def test_an_instruction_that_brings_out_a_target_is_better_than_none(judged):
    size = judged["targets"]["size"]
    assert size["layers"][1][2] > 0.95
    assert size["towers"]["sam"] > 0.95
    assert all(abs(value) < 0.4 for value in (*size["layers"][0], *size["layers"][1][:2]))
    gain = judged["gains"]["1"]
    assert gain["low"] > 0
    assert gain["value"] == pytest.approx(
        judged["layers"][1][2]["value"] - judged["layers"][0][2]["value"]
    )
    mean = (size["layers"][1][2] + judged["targets"]["noise"]["layers"][1][2]) / 2
    assert judged["layers"][1][2]["value"] == pytest.approx(mean)


def test_a_target_counts_the_studies_that_it_is_known_of(judged):
    assert judged["targets"]["size"]["num_studies"] == NUM
    assert judged["targets"]["size"]["ceiling"] == 1
    assert judged["targets"]["noise"]["num_studies"] == 60
    assert judged["targets"]["noise"]["ceiling"] is None
    assert judged["left_out"] == {"gone": "is the same for all studies"}


def test_the_tables_have_a_row_for_each(judged):
    table = instructions_table(judged)
    assert table.header == (
        "instruction", "embedding", "layer 1", "last layer", "last, minus none",
    )  # fmt: skip
    assert [row[0] for row in table.rows] == ["none", "how large is it?"]
    assert table.rows[0][-1] == "-"
    assert table.rows[1][-1].startswith("+")
    names = [row[0] for row in targets_table(judged).rows]
    assert names == ["size", "noise"]
    assert targets_table(judged).rows[1][2] == "-"
