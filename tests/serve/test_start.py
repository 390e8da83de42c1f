"""Where a service cannot come up, and what is left behind, on a Ray that others use too."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sonoray.errors import ClusterError, ServingError
from sonoray.workspace import Workspace
from sonoray_jobs.service import serve as job
from sonoray_jobs.service.listening import free_port
from sonoray_serve.app import APP_NAME
from sonoray_serve.settings import Limits, Replicas, ServeConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = Replicas(num_cpus=0.1, max_ongoing=1, max_queued=2)
LIMITS = Limits(deadline_s=5)  # so long Ray Serve waits for a replica to end that never began


@pytest.fixture(autouse=True)
def no_serve_left(ray_local: str) -> Iterator[None]:
    from ray import serve

    yield
    serve.shutdown()


def serving(model: Path, workspace: Path, **config: Any) -> Any:
    return job.serving(
        workspace=Workspace.open(workspace),
        model=str(model),
        config=ServeConfig(**{"limits": LIMITS, "vision": SMALL, "engine": SMALL, **config}),
        port=free_port(),
        api_keys=["unit-test-key-0123456789"],
    )


def greet(text: str) -> Any:
    """An application of somebody else's."""
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Greeter:
        def __call__(self) -> str:
            return text

    return Greeter.bind()


def test_a_ray_serve_of_others_is_refused_and_left_alone(model_folder: Path, tmp_path: Path):
    from ray import serve

    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"port": port})
    with (
        pytest.raises(ServingError, match=r"at '.+:\d+'.*--address .*serve shutdown"),
        serving(model_folder, tmp_path),
    ):
        pass
    serve.run(greet("hello"), name=APP_NAME)
    with (
        pytest.raises(ServingError, match="already runs"),
        serving(model_folder, tmp_path),
    ):
        pass
    assert httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "hello"


def test_what_others_deployed_beside_it_outlives_the_service(model_folder: Path, tmp_path: Path):
    from ray import serve

    with serving(model_folder, tmp_path):
        serve.run(greet("hello"), name="other", route_prefix="/other")
    assert serve.status().applications.keys() == {"other"}


def test_gpus_that_are_not_there_are_refused_with_numbers(model_folder: Path, tmp_path: Path):
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    engine = Replicas(num_cpus=0.1, num_gpus=gpus + 1, max_ongoing=1, max_queued=2)
    with (
        pytest.raises(ClusterError, match=rf"needs {gpus + 1} GPUs and the .* has {gpus}"),
        serving(model_folder, tmp_path, engine=engine),
    ):
        pass


def test_a_replica_without_a_place_is_named_in_time(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ray import serve

    # as on a cluster whose free CPUs are spread over nodes: enough, and on none of them
    monkeypatch.setattr("sonoray_jobs.service.deployment.require_cpus", lambda *_, **__: None)
    engine = Replicas(num_cpus=100, max_ongoing=1, max_queued=2)
    start = time.monotonic()
    with (
        pytest.raises(ServingError, match=r"start_timeout_s = 2: .*engine.*sonoray --verbose"),
        serving(model_folder, tmp_path, engine=engine, start_timeout_s=2),
    ):
        pass
    assert time.monotonic() - start < 90
    assert serve.status().applications == {}
