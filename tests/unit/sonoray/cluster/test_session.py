import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from sonoray.cluster import address as addresses
from sonoray.cluster import session as cluster
from sonoray.cluster import token as tokens
from sonoray.errors import ClusterError


@pytest.fixture
def listener():
    """A server that accepts and says nothing, or what the test puts into `answers`."""
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            accepted = []
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted.append(connection)
                connection.sendall(b"".join(answers))

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", answers
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def fake_raylet():
    """A process that the process table shows as a raylet of another cluster."""
    child = subprocess.Popen(
        ["raylet", "-c", "echo ready; read line", "shell", "--gcs-address=192.0.2.77:6379"],
        executable="/bin/sh",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    yield "192.0.2.77:6379"
    child.kill()
    child.communicate()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://10.0.0.5:8265", "sonoray submit"),
        ("ray://10.0.0.5:10001", "sonoray submit"),
        ("10.0.0.5", "not HOST:PORT"),
        ("10.0.0.5:gcs", "not HOST:PORT"),
        (":6379", "not HOST:PORT"),
        ("127.0.0.1:70000", "no Ray cluster answers"),
        ("127.0.0.1:1", "refused"),
        ("no-such-host.invalid:6379", "no Ray cluster answers"),
    ],
)
def test_wrong_address_is_refused_at_once(address, words):
    start = time.monotonic()
    with pytest.raises(ClusterError, match=words) as caught:
        addresses.check_address(address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_port_that_says_nothing_is_refused_within_seconds(listener):
    address, _ = listener
    start = time.monotonic()
    with pytest.raises(ClusterError, match="timed out"):
        addresses.check_address(address)
    assert time.monotonic() - start < 10


def test_a_port_of_something_else_is_no_gcs(listener):
    address, answers = listener
    answers.append(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ClusterError, match="no Ray GCS answers"):
        addresses.check_address(address)


def test_a_grpc_port_passes_once_a_node_runs_here(listener, fake_raylet, monkeypatch):
    address, answers = listener
    answers.append(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # an HTTP/2 server's SETTINGS frame
    found = []
    look = addresses.local_ray_addresses
    monkeypatch.setattr(addresses, "local_ray_addresses", lambda: found.extend(look()) or found)
    addresses.check_address(address)
    assert fake_raylet in found


def test_a_cluster_without_a_node_here_is_refused(listener, monkeypatch):
    address, answers = listener
    answers.append(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    monkeypatch.setattr(addresses, "local_ray_addresses", set)
    with pytest.raises(ClusterError, match=r"no node of the Ray cluster at .* sonoray submit"):
        addresses.check_address(address)


def test_local_addresses_are_those_of_raylets(fake_raylet):
    assert fake_raylet in addresses.local_ray_addresses()


def test_the_interpreters_folder_comes_first_in_path_once():
    folder = str(Path(sys.executable).parent)
    once = cluster.path_with_interpreter(os.pathsep.join(["/usr/bin", folder, "/bin"]))
    assert once == os.pathsep.join([folder, "/usr/bin", "/bin"])
    assert cluster.path_with_interpreter(once) == once


def test_token_file_is_made_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    tokens.ensure_token_file()
    path = tmp_path / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path] == list(path.parent.iterdir())

    path.chmod(0o644)  # as Ray itself leaves it
    tokens.ensure_token_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == token


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "from-the-environment")]
)
def test_no_token_file_where_none_is_used(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv(name, value)
    tokens.ensure_token_file()
    assert not list(tmp_path.iterdir())


def test_token_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ClusterError, match="file/token"):
        tokens.ensure_token_file()


def test_a_node_that_is_not_up_in_time_is_said_in_one_line(monkeypatch):
    def slow(**_):
        raise Exception("The current node timed out during startup. This\nmany lines")

    monkeypatch.setattr(cluster, "_init", slow)
    with pytest.raises(ClusterError, match=r"timed out during startup\. This\); run: sonoray doct"):
        cluster._private(None).__enter__()  # ray_session joins a Ray that other tests started


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "words"),
    [
        (5, 0, "training needs 5 CPUs and the Ray cluster has 4;"),
        (1, 3, "training needs 3 GPUs and the Ray cluster has 2;"),
        (3.5, 0, "training needs 3.5 CPUs and 3 of the Ray cluster's 4 are free"),
        (1, 0.8, "training needs 0.8 GPUs and 0.5 of the Ray cluster's 2 are free"),
    ],
)
def test_what_a_cluster_lacks_is_said_with_numbers(monkeypatch, num_cpus, num_gpus, words):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.0, "GPU": 0.5})
    monkeypatch.setattr(cluster, "CPU_WAIT_S", 0.1)
    with pytest.raises(ClusterError) as caught:
        cluster.require_cpus(num_cpus, "training", num_gpus=num_gpus)
    assert str(caught.value).startswith(words)


def test_fractions_that_just_fit_pass_and_no_gpu_is_asked_of_a_cluster_without(monkeypatch):
    asked = []
    for name in ("cluster_resources", "available_resources"):
        monkeypatch.setattr(ray, name, lambda name=name: asked.append(name) or {"CPU": 0.3})
    cluster.require_cpus(3 * 0.1, "training")
    assert asked == ["cluster_resources", "available_resources"]  # both, and free at the first look
    with pytest.raises(ClusterError, match=r"needs 0\.3001 CPUs and the Ray cluster has 0\.3"):
        cluster.require_cpus(0.3001, "training")


def test_development_environment_ships_the_four_packages():
    folders = [Path(folder) for folder in cluster.dev_runtime_env()["py_modules"]]
    assert [folder.name for folder in folders] == list(cluster.PACKAGES)
    assert all(folder.is_absolute() and (folder / "__init__.py").is_file() for folder in folders)


def test_object_store_is_a_small_share_of_the_memory():
    memory = cluster.memory_limit_bytes()
    assert 0 < memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cluster.object_store_bytes() <= min(2 * 1024**3, 0.2 * memory)
