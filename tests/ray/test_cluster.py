import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from sonoray.cluster import address as addresses
from sonoray.cluster import session as cluster
from sonoray.errors import ClusterError

pytestmark = pytest.mark.ray

EXTRA = ["dashboard", "log_monitor", "monitor", "raylet"]
CHILD = """
import os, ray
from sonoray.cluster.session import ray_session
with ray_session({argument}) as address:
    path = ray.get(ray.remote(num_cpus=0)(lambda: os.environ["PATH"]).remote())
    session = ray._private.worker.global_worker.node.get_session_dir_path()
    print(address, path.split(os.pathsep)[0], os.environ.get("RAY_ADDRESS"), session)
assert not ray.is_initialized()
"""


@ray.remote(num_cpus=0)
def environment() -> dict[str, str]:
    return dict(os.environ)


@ray.remote(num_cpus=3)
class Busy:
    def ready(self) -> bool:
        return True


def run_child(argument, env):
    """The words of the child's output; nobody else writes any."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(argument=argument)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert child.stderr == ""
    return child.stdout.split()


def test_workers_see_the_venvs_tools_and_their_own_cluster(ray_local):
    env = ray.get(environment.remote())
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert env["RAY_ADDRESS"] == os.environ["RAY_ADDRESS"] == ray_local
    assert env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    assert "RAY_GCS_SERVER_PORT" not in os.environ


def test_ray_trains_controller_looks_often_unless_the_user_says_how_often(ray_local, monkeypatch):
    """It reads the driver's environment; at its own 2 s every epoch would wait for it."""
    from ray.train.v2._internal import constants

    interval = constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR
    monkeypatch.delenv(interval)
    with cluster.ray_session():
        assert constants.get_env_vars_to_propagate()[interval] == "0.2"
    monkeypatch.setenv(interval, "7")
    with cluster.ray_session():
        assert constants.get_env_vars_to_propagate()[interval] == "7"


def test_temporary_files_are_the_owners_alone(ray_local):
    root = Path(ray._private.worker.global_worker.node.get_session_dir_path()).parents[1]
    assert root.name.startswith("sonoray-")
    assert root.stat().st_mode & 0o077 == 0


def test_an_initialised_ray_is_reused_and_left_running(ray_local):
    with cluster.ray_session(num_cpus=1) as address:
        assert address.rpartition(":")[2] == ray_local.rpartition(":")[2]
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4


def test_a_wrong_address_is_refused_though_a_ray_is_initialised(ray_local):
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"), cluster.ray_session("127.0.0.1:1"):
        pass
    assert ray.is_initialized()


def test_too_small_a_cluster_is_refused_with_numbers(ray_local):
    cluster.require_cpus(4, "training")
    with pytest.raises(ClusterError, match="training needs 5 CPUs and the Ray cluster has 4"):
        cluster.require_cpus(5, "training")


def test_a_busy_cluster_is_refused_with_numbers_and_passes_once_it_is_free(ray_local, monkeypatch):
    busy = Busy.remote()
    ray.get(busy.ready.remote())
    monkeypatch.setattr(cluster, "CPU_WAIT_S", 0.5)
    with pytest.raises(ClusterError, match="training needs 2 CPUs and 1 of the Ray cluster's 4"):
        cluster.require_cpus(2, "training")
    monkeypatch.setattr(cluster, "CPU_WAIT_S", 10.0)
    threading.Timer(1.0, lambda: ray.kill(busy)).start()
    cluster.require_cpus(4, "training")
    assert ray.available_resources()["CPU"] == 4


@pytest.mark.parametrize("named", [True, False], ids=["address", "RAY_ADDRESS"])
def test_a_running_cluster_is_joined_and_left_running(ray_local, named):
    env = dict(os.environ)
    if named:
        del env["RAY_ADDRESS"]
    address, folder, _, _ = run_child(f"address={ray_local!r}" if named else "", env)
    assert address.rpartition(":")[2] == ray_local.rpartition(":")[2]
    assert folder == str(Path(sys.executable).parent)
    assert ray.get(environment.remote())


DRIVER = """
import signal
from sonoray.cluster.session import ray_session

with ray_session("local", num_cpus=1):
    print("up", flush=True)
    signal.pause()
"""


@pytest.mark.slow
def test_a_driver_that_is_told_to_end_prints_no_trace(ray_local):
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as driver:  # fmt: skip
        try:
            assert driver.stdout.readline() == "up\n"
            driver.terminate()
            _, told = driver.communicate(timeout=60)
        finally:
            driver.kill()
    assert "SIGTERM received" not in told
    assert "(unknown)" not in told


@pytest.mark.slow
def test_a_private_ray_leaves_nothing_behind(ray_local):
    """Beside another Ray, too: it is a second one, and only its own processes go."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    address, folder, in_environment, session = run_child("num_cpus=1", env)
    port = address.rpartition(":")[2]
    assert address == in_environment
    assert port != ray_local.rpartition(":")[2]
    assert folder == str(Path(sys.executable).parent)
    deadline = time.monotonic() + 10
    while any(known.endswith(f":{port}") for known in addresses.local_ray_addresses()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not Path(session).parents[1].exists()
    assert ray.get(environment.remote())


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ("ray_session(num_cpus=1)", ["raylet"]),
        ("debugging()", ["log_monitor", "raylet"]),
        # Ray's own choice: once it starts less, less has to be left out
        ("ray.init('local', include_dashboard=False, num_cpus=1)", EXTRA),
    ],
)
def test_a_private_ray_starts_what_it_needs_alone(session, expected):
    line = (
        "import logging, ray; from sonoray.cluster.session import ray_session\n"
        "def debugging():\n"
        "    logging.getLogger('sonoray').setLevel(logging.DEBUG)\n"
        "    return ray_session(num_cpus=1)\n"
        f"with {session}:\n"
        "    node = ray._private.worker.global_worker.node\n"
        f"    print(sorted({{*{EXTRA!r}}} & set(node.all_processes)))\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", line], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(expected)
