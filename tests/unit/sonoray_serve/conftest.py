"""One tiny exported model, and the whole application around it in this process."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI

from llava_ultra.export.assistant import Assistant, load_assistant
from llava_ultra.testing import tiny_artifact
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.routes import create_api
from sonoray_serve.intake.study_server import StudyServer
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import AppArgs, Batching, Limits, ServeConfig

KEY = "unit-test-key-0123456789"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that spin for each other on a busy machine slow a tiny model down a hundredfold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_artifact(folder, lively=True)
    return folder


@pytest.fixture(scope="session")
def source(model_folder: Path) -> ModelSource:
    return ModelSource(model=str(model_folder), digest="", workspace="", device="cpu")


@pytest.fixture(scope="session")
def assistant(model_folder: Path) -> Assistant:
    return load_assistant(model_folder)


@pytest.fixture(scope="session")
def vision(source: ModelSource) -> Vision:
    return Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)


@pytest.fixture
def engine(source: ModelSource) -> Engine:
    return Engine(source, Batching(max_answers=1, stream_interval_s=0))


@pytest.fixture
def make_api(vision: Vision, engine: Engine) -> Callable[..., FastAPI]:
    """Make the HTTP application, with the deployments' classes in place of the deployments."""

    def make(
        *, workspace: str = ".sonoray", config: ServeConfig | None = None, **limits: float
    ) -> FastAPI:
        config = config or ServeConfig(limits=Limits(**limits))
        args = AppArgs(
            model="unused",
            workspace=workspace,
            api_key_digests=(digest_key(KEY),),
            config=config,
        )
        chat = Chat(
            vision=vision,
            engine=engine,
            models={args.model_name: next(iter(asyncio.run(engine.cards()).values()))},
            limits=config.limits,
            server=StudyServer(config.dicomweb, limits=config.limits),
        )
        return create_api(chat, args)

    return make


@pytest.fixture
def headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}
