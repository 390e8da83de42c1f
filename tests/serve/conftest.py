"""One service for all tests here: a tiny real model behind real Ray Serve and HTTP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest
import torch

from llava_ultra.config import ModelConfig
from llava_ultra.export.assistant import Assistant, load_assistant
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.testing import tiny_artifact, tiny_config
from sonoray.tracking.aliases import move_alias
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import register
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace
from sonoray_jobs.service.listening import free_port
from sonoray_jobs.service.serve import Service, new_api_key, serving
from sonoray_serve.settings import Limits, Replicas, ServeConfig, ShadowConfig

RECOGNISING = tiny_config().model_copy(
    update={"objectives": (*tiny_config().objectives, RecognitionObjective())}
)
"""Of the models here, which are asked for classes too."""

CONFIG = ServeConfig(
    limits=Limits(max_body_bytes=2_000_000, max_requests=24, retry_after_s=3),
    ingress=Replicas(num_cpus=0.1, max_ongoing=64, max_queued=64),
    vision=Replicas(num_cpus=0.1, max_ongoing=1, max_queued=32),
    engine=Replicas(num_cpus=0.1, max_ongoing=1, max_queued=2),
    max_models=3,
    shadow=ShadowConfig(name="candidate"),
)
"""One slot and a short queue, so that a small crowd already meets their limits. Nothing is copied
where the file of adapters has no candidate."""


NAME = "llava-ultra"
"""Of the registered model."""


def register_model(workspace: Workspace, folder: Path) -> int:
    """Register an exported model and let `champion` name it; gives the version."""
    store = open_store(workspace)
    with held_run(store, workspace.runs, f"run-{folder.name}", config={}) as run_id:
        pass
    made = register(store, folder, NAME, run_id=run_id)
    move_alias(store, made, "champion")
    return made.version


@dataclass(frozen=True, kw_only=True)
class Running:
    """The service under test, and what a test needs to reach it."""

    service: Service
    key: str
    workspace: Workspace
    """With the registry that the served model was named in, by its alias `champion`."""
    adapters: Path
    """The file of further models."""
    logs: Path
    """Folder of the logs of this Ray, its workers' and replicas' too."""

    @property
    def root(self) -> str:
        """URL without `/v1`."""
        return self.service.url.removesuffix("/v1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that spin for each other on a busy machine slow a tiny model down a hundredfold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_artifact(folder, lively=True, config=RECOGNISING)
    return folder


@pytest.fixture(scope="session")
def recognising() -> ModelConfig:
    return RECOGNISING


@pytest.fixture
def promote(running: Running) -> Callable[[Path], int]:
    """Register an exported model and let the alias name it; gives the version."""
    return lambda folder: register_model(running.workspace, folder)


@pytest.fixture(scope="session")
def assistant(model_folder: Path) -> Assistant:
    return load_assistant(model_folder)


@pytest.fixture(scope="module")
def running(
    ray_local: str, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    key = new_api_key()
    from ray import serve
    from ray._private.worker import _global_node

    adapters = tmp_path_factory.mktemp("service") / "adapters.toml"
    adapters.write_text("")
    workspace = Workspace.open(tmp_path_factory.mktemp("workspace"))
    register_model(workspace, model_folder)
    with serving(
        workspace=workspace,
        model=f"models:/{NAME}@champion",
        adapters=adapters,
        config=CONFIG,
        port=free_port(),
        api_keys=["another-key-0123456789", key],
    ) as service:
        yield Running(
            service=service,
            key=key,
            workspace=workspace,
            adapters=adapters,
            logs=Path(_global_node.get_logs_dir_path()),
        )
        serve.shutdown()  # ends the threads of the handles that tests made here


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=running.service.url, api_key=running.key, max_retries=0, http_client=http
    ) as client:
        yield client


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {running.key}"}
    with httpx2.Client(
        base_url=running.root, headers=headers, trust_env=False, timeout=60
    ) as client:
        yield client
