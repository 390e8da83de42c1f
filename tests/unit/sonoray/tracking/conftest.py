"""One SQLite store for all tests of the package: a new one costs seconds of migrations."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store, open_store
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.open(tmp_path_factory.mktemp("工作 space"))


@pytest.fixture(scope="session")
def store(workspace: Workspace) -> Store:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return open_store(workspace)


@pytest.fixture
def training(
    store: Store, workspace: Workspace
) -> Callable[..., AbstractContextManager[tuple[MlflowRunCallback, str]]]:
    """Holds the run of a training open and gives the callback that reports to it, and its id."""

    @contextmanager
    def hold(name: str, **options: Any) -> Iterator[tuple[MlflowRunCallback, str]]:
        with held_run(store, workspace.runs, name, **options) as run_id:
            callback = MlflowRunCallback(store=store, storage_path=workspace.runs, name=name)
            yield callback, run_id

    return hold


@pytest.fixture
def new_run(store: Store, workspace: Workspace) -> Callable[[str], str]:
    """Makes a finished run and gives its id."""

    def make(name: str) -> str:
        with held_run(store, workspace.runs, name, config={"a": 1}) as run_id:
            pass
        return run_id

    return make
