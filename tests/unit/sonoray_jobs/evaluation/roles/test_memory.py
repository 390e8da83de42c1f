"""The studies that look most alike."""

import numpy as np

from sonoray_jobs.evaluation.roles.memory import Memory

VECTORS = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], np.float32)
MEMORY = Memory(
    patients=np.array(["a", "b", "c", "c"], np.str_), reports=("A", "B", "C", "D"), vectors=VECTORS
)


def test_the_nearest_come_first_and_none_is_the_patient_s():
    assert MEMORY.alike([1, 0], "", 3) == ["A", "B", "D"]
    assert MEMORY.alike([1, 0], "a", 2) == ["B", "D"]
    assert MEMORY.alike([0, 1], "c", 9) == ["B", "A"]


def test_a_patient_who_is_alone_gets_none():
    alone = Memory(patients=np.array(["a"], np.str_), reports=("A",), vectors=VECTORS[:1])
    assert alone.alike([1, 0], "a", 2) == []
