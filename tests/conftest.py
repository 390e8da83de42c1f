"""Fixtures of the whole suite: one Ray a test process, a tiny road gone once, an S3 server."""

import os

# before anything imports torch: tiny tensors gain nothing from threads, and two test processes that
# wait for each other at every operation run ten times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from sonoray.cluster.session import ray_session
from sonoray.workspace import Workspace
from sonoray_jobs import demo
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.outputs import find as outputs
from sonoray_jobs.release import export
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap, embedding
from sonoray_serve.proxy.last_word import IMPORT_PATH, VARIABLE

# The same examples in every run, and no deadline: a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


class ByService(LoadScopeScheduling):
    """Which tests stay in one process: those of one Ray, those of one Orthanc, one module's.

    `make test` runs two processes (pytest-xdist). One goes the whole road and takes what stands on
    it, `e2e` and `serve`; the other has the tests of `ray`, which need a cluster and no road. Both
    wait for processes to start and to die, so that two Rays fill two cores; the unit tests come
    after them. Groups go out in the order in which they were collected.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.startswith(("tests/e2e/", "tests/serve/")):
            return "road"
        if module.startswith("tests/ray/"):
            return "ray"
        return "orthanc" if "/dicomweb/" in module else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Group the tests by what they share."""
    return ByService(config, log)


@pytest.fixture(autouse=True)
def usual_priority() -> Iterator[None]:
    """Give this process its scheduling class back after a test that encoded AV1.

    SVT-AV1, run as root, puts the calling thread into the real-time class at its highest priority
    and leaves it there. All that a test process starts later, whole Ray clusters, would inherit it
    and starve what runs beside them.
    """
    before = os.sched_getscheduler(0)
    yield
    if os.sched_getscheduler(0) != before:
        os.sched_setscheduler(0, before, os.sched_param(0))


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Return a file or folder of the shared data by name; skip where it is missing."""
    beside = request.config.rootpath.parent / "shared" / "data"
    shared = Path(os.environ.get("SONORAY_SHARED_DATA", beside))

    def find(name: str) -> Path:
        if not (shared / name).exists():
            pytest.skip(f"no {name} below {shared}; set SONORAY_SHARED_DATA")
        return shared / name

    return find


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """One private Ray with four logical CPUs for all tests; its address, HOST:PORT.

    RAY_ADDRESS stands in the environment from the first use on, so child processes join it.
    """
    with ray_session(num_cpus=4, environment={VARIABLE: IMPORT_PATH}) as address:
        yield address


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL of its own, by its URL without a database; Debian's `postgresql` has it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # it refuses to run as root: then as the user that Debian makes for it
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        as_user: list[str] = []
        if os.getuid() == 0:
            as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(place, "postgres")
        data = f"{place}/data"

        def call(program: str, *words: str) -> None:
            command = [*as_user, str(found[-1].parent / program), "-D", data, *words]
            subprocess.run(command, check=True, cwd=place, capture_output=True, timeout=120)

        call("initdb", "-A", "trust", "-U", "tester", "-E", "UTF8")
        options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-w", "-l", f"{place}/log", "-o", options, "start")
        try:
            # under SQLAlchemy 2.1 this means psycopg 3
            yield f"postgresql://tester@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture
def postgresql(postgresql_server: str) -> str:
    """A new database of it, by its URL."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgresql_server}/{name}"


@pytest.fixture(scope="session")
def tiny_road() -> RoadConfig:
    """The whole road at its smallest: 7 training studies of 12 patients, seconds for each step."""
    from llava_ultra.testing import tiny_config

    model = tiny_config().model_dump()
    model["clip"]["image_size"] = 64  # 16 tokens: features outweigh the frame of their file
    model["lora"]["dropout"] = 0.1  # randomness, which a resumed training has to repeat
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 12, "image_size": 64, "images": [1, 2]},
            "ingest": {"splits": {"train": 0.6, "validation": 0.15, "test": 0.25}},
            "model": model,
            "bootstrap": {
                "language": {"steps": 6, "batch_size": 4, "learning_rate": 1e-2},
                "clip": {"steps": 4, "batch_size": 4},
                "sam": {"steps": 4, "batch_size": 4},
            },
            "embed": {"batch_size": 3, "images_per_file": 9},
            "train": {
                "stages": [
                    {"name": "align", "epochs": 2, "learning_rate": 2e-3},
                    {"name": "instruct", "epochs": 2, "learning_rate": 2e-3, "lora": True},
                ],
                "studies_per_step": 3,
                "site_cue": True,  # the rarer road, on which the cue has to reach every step
            },
            # one actor: a second would load torch for a handful of studies in every step that asks
            "evaluate": {"max_tokens": 8, "bootstrap_samples": 1000, "actors": 1},
        }
    )


@dataclass(frozen=True, kw_only=True)
class FinishedRoad:
    """A workspace in which every step was done once, and what each said."""

    road: RoadConfig
    workspace: Workspace
    shown: demo.Demonstrated
    bootstrapped: bootstrap.Bootstrapped
    embedded: embedding.Embedded
    trained: outputs.Trained
    train_workers: int
    """Workers that the training had."""
    evaluated: evaluate.Evaluated
    exported: export.Exported

    def copy(self, folder: Path, *parts: str) -> Workspace:
        """A workspace of its own with some of this one's folders; nothing is trained in it."""
        trainings = shutil.ignore_patterns("train-*")
        for part in parts:
            shutil.copytree(self.workspace.root / part, folder / part, ignore=trainings)
        return Workspace.open(folder)


def count_train_workers() -> int:
    """Ray Train workers that this Ray has had so far."""
    from ray._private.state import actors  # the public API needs the dashboard

    return sum(actor["ActorClassName"] == "RayTrainWorker" for actor in actors().values())


@pytest.fixture(scope="session")
def finished_road(
    ray_local: str, tiny_road: RoadConfig, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRoad:
    """The demo, from nothing."""
    workspace = Workspace.open(tmp_path_factory.mktemp("road"))
    before = count_train_workers()
    shown = demo.run(workspace=workspace, road=tiny_road)
    return FinishedRoad(
        road=tiny_road,
        workspace=workspace,
        shown=shown,
        train_workers=count_train_workers() - before,
        bootstrapped=shown.results["bootstrap"],
        embedded=shown.results["embed"],
        trained=shown.results["train"],
        evaluated=shown.results["evaluate"],
        exported=shown.results["export"],
    )


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """An empty prefix of a bucket on a real S3 server, of one test."""

    client: Any
    """boto3's."""
    uri: str

    def names(self, pattern: str) -> list[str]:
        """Last parts of all keys below the prefix that match."""
        found = self.client.list_objects_v2(Bucket="tests", Prefix=self._prefix).get("Contents", ())
        names = sorted(each["Key"].rpartition("/")[2] for each in found)
        return [name for name in names if fnmatch(name, pattern)]

    def read(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket="tests", Key=self._key(name))["Body"].read())

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="tests", Key=self._key(name), Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket="tests", Key=self._key(name))

    @property
    def _prefix(self) -> str:
        return self.uri.removeprefix("s3://tests/")

    def _key(self, name: str) -> str:
        found = self.client.list_objects_v2(Bucket="tests", Prefix=self._prefix)["Contents"]
        (key,) = (each["Key"] for each in found if each["Key"].endswith(f"/{name}"))
        return str(key)


@contextmanager
def _running_s3() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """An S3 server on loopback: its URL and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 120  # the machine may be busy
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def start_s3() -> Callable[[], AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]:
    """Starts an S3 server of a test's own."""
    return _running_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of the S3 server of this test run."""
    with _running_s3() as (url, _):
        yield url


@pytest.fixture
def prefix(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Prefix:
    """A place for objects; this process and its children find the server and the keys."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "key-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # nobody is asked but this server
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="tests")
    return Prefix(client=client, uri=f"s3://tests/{uuid.uuid4().hex}")
