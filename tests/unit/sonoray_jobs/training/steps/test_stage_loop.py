import pickle

from sonoray_jobs.cluster.failures import find_failure
from sonoray_jobs.road.train_config import TrainStage
from sonoray_jobs.training.steps.stage_loop import diverged


def test_a_loss_that_is_not_finite_is_one_line_that_survives_the_way_to_the_driver():
    stage = TrainStage(name="align", epochs=1, learning_rate=2.0)
    error = pickle.loads(pickle.dumps(diverged(stage, 12, 1.25, 6)))
    failure = find_failure(error)
    assert failure.exit_code == 1
    for part in (
        "stage 'align'",
        "step 12",
        "learning rate 1.25",
        "the 5 before",
        "learning_rate 2 ",
    ):
        assert part in failure.message
