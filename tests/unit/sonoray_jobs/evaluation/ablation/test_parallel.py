import pytest

from sonoray.errors import ClusterError, DataError
from sonoray_jobs.evaluation.ablation.parallel import num_at_once, place, reason_of
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.road.config import RoadConfig

ROAD = place(RoadConfig())


def test_a_child_has_one_worker_and_one_actor():
    assert (ROAD.train.num_workers, ROAD.evaluate.actors) == (1, 1)


@pytest.mark.parametrize(
    ("values", "resources", "requested", "expected"),
    [
        ({}, {"CPU": 2}, None, 2),  # an actor's CPU is more than a worker's half
        ({"evaluate.actor_cpus": 0.5}, {"CPU": 2}, None, 4),
        ({"evaluate.actor_cpus": 0.1, "train.cpus_per_worker": 0.1}, {"CPU": 0.3}, None, 3),
        ({"train.data_cpus": 0.5}, {"CPU": 4}, None, 2),  # Ray Data hands out whole CPUs
        ({}, {"CPU": 8}, 3, 3),
        ({}, {"CPU": 2}, 9, 2),
        ({"train.gpus_per_worker": 1.0}, {"CPU": 16, "GPU": 4}, None, 4),
        ({"evaluate.actor_gpus": 0.25}, {"CPU": 16, "GPU": 2}, None, 8),
    ],
)
def test_as_many_as_fit_run_at_once(values, resources, requested, expected):
    assert num_at_once(with_values(ROAD, values), resources, requested) == expected


def test_a_cluster_without_room_for_one_is_refused():
    road = with_values(ROAD, {"train.gpus_per_worker": 1.0})
    with pytest.raises(
        ClusterError, match=r"a child needs 1 CPUs, 1 GPUs and .* has 8 CPUs, 0 GPU"
    ):
        num_at_once(road, {"CPU": 8.0}, None)


def test_a_childs_failure_is_told_in_one_line():
    assert reason_of(DataError("no study; ingest more")) == "no study; ingest more"
    assert reason_of(RuntimeError("first\nlast")) == "RuntimeError: last"
