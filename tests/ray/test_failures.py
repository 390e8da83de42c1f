"""What the command line makes of errors that real tasks, actors, datasets and trainings wrap."""

import pytest
import ray
import ray.data

from llava_ultra.digests.state_digest import check_digest
from sonoray.errors import DataError, JobFailedError
from sonoray_jobs.cluster.failures import find_failure

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
def task(error: Exception) -> None:
    raise error


@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, error: Exception):
        raise error

    def ready(self) -> None: ...


class Udf:
    def __init__(self) -> None:
        raise DataError("weights are missing; run: sonoray bootstrap")

    def __call__(self, batch: dict) -> dict:
        return batch


def bad_batch(batch: dict) -> dict:
    raise DataError("image x is unreadable; ingest again")


def caught(function):
    with pytest.raises(Exception) as information:  # noqa: PT011 - Ray decides
        function()
    return information.value


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: ray.get(task.remote(DataError("no study"))), "no study"),
        (lambda: ray.get(Actor.remote(DataError("no actor")).ready.remote()), "no actor"),
        (
            lambda: ray.data.range(4).map_batches(bad_batch).materialize(),
            "image x is unreadable; ingest again",
        ),
        (
            lambda: (
                ray.data.range(4)
                .map_batches(Udf, compute=ray.data.ActorPoolStrategy(size=1))
                .materialize()
            ),
            "weights are missing; run: sonoray bootstrap",
        ),
    ],
    ids=["task", "actor", "data function", "data actor"],
)
def test_an_expected_failure_keeps_its_line(ray_local, capfd, function, message):
    error = caught(function)
    failure = find_failure(error)
    assert failure is not None, repr(error)
    assert (failure.message, failure.exit_code) == (message, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_the_models_value_error_is_the_users_and_its_libraries_are_not(ray_local):
    check = ray.remote(num_cpus=0)(check_digest)
    failure = find_failure(caught(lambda: ray.get(check.remote("sam", found="a", expected="b"))))
    assert failure.message.startswith("sam: digest a does not match the expected b;")
    assert find_failure(caught(lambda: ray.get(task.remote(ValueError("x"))))) is None
    assert find_failure(caught(lambda: ray.get(task.remote(KeyError("x"))))) is None


@pytest.mark.slow
def test_a_training_workers_failure_keeps_its_line(ray_local, tmp_path):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def loop() -> None:
        raise JobFailedError("loss is nan at step 3; lower the learning rate")

    trainer = TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="fails", storage_path=str(tmp_path)),
    )
    failure = find_failure(caught(trainer.fit))
    assert failure.message == "loss is nan at step 3; lower the learning rate"
    assert failure.exit_code == 1
