"""A real Ray Train run whose worker dies once: MLflow must show one run with all of it."""

from pathlib import Path
from typing import Any

import pytest

from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store, open_store
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def fit(store: Store, storage: Path, config: dict[str, Any]) -> str:
    """Train two workers for two steps; where `fail_once` names a missing file, rank 1 dies."""
    from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def loop(config: dict[str, Any]) -> None:
        import tempfile

        import ray.train.collective

        rank = ray.train.get_context().get_world_rank()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "weights").write_text("w")
            checkpoint = Checkpoint.from_directory(folder) if rank == 0 else None
            metrics = {"step": 0, "loss": 1.0 + rank}
            ray.train.report(metrics, checkpoint=checkpoint)
        ray.train.collective.barrier()  # rank 0's report is out before rank 1 dies
        marker = Path(config["fail_once"])
        if rank == 1 and not marker.exists():
            marker.touch()
            raise ValueError("the text of a patient")
        ray.train.report({"step": 1, "loss": 0.5 + rank})

    with held_run(store, storage, "tiny", config=config, tags={"tower.clip": "c"}) as run_id:
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                storage_path=str(storage),
                name="tiny",
                callbacks=[MlflowRunCallback(store=store, storage_path=storage, name="tiny")],
                failure_config=FailureConfig(max_failures=1),
            ),
        ).fit()
    return run_id


@pytest.mark.usefixtures("ray_local")
def test_a_retry_stays_in_its_run(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path)
    store = open_store(workspace)
    client = store.client

    run_id = fit(store, workspace.runs, {"fail_once": str(tmp_path / "one")})
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["sonoray.failures"] == "1"
    assert run.data.tags["sonoray.last_failure"] == "rank 1: ValueError"
    assert "patient" not in str(run.data.tags)
    first = client.get_metric_history(run_id, "loss")
    # Rank 0 of the failed attempt, then the step that the second one has alone.
    assert sorted((point.step, point.value) for point in first) == [(0, 1.0), (1, 0.5)]
    assert Path(run.data.tags["checkpoint"], "weights").read_text() == "w"
    assert run.data.tags["checkpoint.step"] == "0"
