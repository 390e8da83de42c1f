"""Patients whose outcome hangs on their age and their scanner."""

import numpy as np
import pytest

from sonoray.stages import Stage, run_stage
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.workspace import Workspace


def make_studies(num, split, seed, weight=2.0):
    """Studies of one patient each; the older ones and those of a scanner are worse."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(num):
        age, device = rng.normal(55, 12), ("A", "B")[int(rng.integers(2))]
        log_odds = weight * (age - 55) / 12 + (1.0 if device == "B" else -1.0)
        is_bad = rng.random() < 1 / (1 + np.exp(-log_odds))
        labels = {
            "age": f"{age:.0f}", "device": device, "side": ("left", "right")[number % 2],
            "pathology": "malignant" if is_bad else "benign",
            "histology": "carcinoma" if is_bad else ("cyst", "fibroadenoma")[number % 2],
            "room": "7", "study_date": "20240101",
        }  # fmt: skip
        if number % 10 == 0:
            del labels["age"]
        answer = "恶性" if is_bad else "良性"
        made.append(
            Study(
                study_id=f"{split}-{number}", patient_key=f"{split}-p{number}", split=split,
                dataset="d", labels=labels,
                images=(StudyImage(image_id=f"{split}-i{number}", uri="", width=8, height=8,
                                   source_ref=f"{split}/{number}.png"),),
                turns=(
                    Turn(question="良性还是恶性？", answer=answer, task=Task.CLOSED,
                         options=("良性", "恶性"), topic="pathology"),
                    Turn(question="哪一侧？", answer="左侧" if number % 2 == 0 else "右侧",
                         task=Task.CLOSED, options=("左侧", "右侧"), topic="side"),
                ),
            )
        )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def training():
    return make_studies(400, "train", 0)


@pytest.fixture(scope="session")
def tested():
    return make_studies(200, "test", 1)


@pytest.fixture(scope="session")
def risk_workspace(tmp_path_factory, training, tested):
    """One with the dataset `d`."""
    found = Workspace.open(tmp_path_factory.mktemp("workspace"))

    def make(folder):
        write_studies(folder, [*training, *tested])
        return {}

    stage = Stage(name="ingest-d", config={}, inputs=[], code=())
    found.point_dataset("d", run_stage(stage, found.stages, make))
    return found
