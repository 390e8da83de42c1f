"""Jobs on a real cluster: `ray start --head` with a token, apart from every other Ray here."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef" * 4


class Head:
    """A running head node and the environment of a client that may use it."""

    def __init__(self, port: int, gcs_port: int, env: dict[str, str]):
        self.url = f"http://127.0.0.1:{port}"
        self.gcs_port = f":{gcs_port}"
        self.env = env

    def submit(self, *arguments: str, env: dict[str, str] | None = None):
        return subprocess.run(
            [BIN / "sonoray", "submit", *arguments],
            env=env or self.env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def free_ports(count):
    probes = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def clean_environment():
    """No address or token of another Ray; /usr/bin/env python is the venv's."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = os.pathsep.join([str(BIN), env["PATH"]])
    return env | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "NO_PROXY": "127.0.0.1"}


def read(url):
    """Body of a page of the dashboard, asked for with the token."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=5) as answer:
        return answer.read()


def is_up(url, agent):
    """True once the dashboard answers and the agent listens, to which it hands every job."""
    try:
        socket.create_connection(("127.0.0.1", agent), timeout=5).close()
        return bool(read(f"{url}/api/version"))
    except OSError:
        return False


@pytest.fixture(scope="module")
def head():
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))  # sockets need a short path
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    env = clean_environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    gcs, dashboard, agent, agent_grpc, runtime_env, metrics = free_ports(6)
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sonoray_jobs.cluster.ray_node",  # as on Kubernetes
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--object-store-memory=200000000",
            "--include-dashboard=true",
            f"--temp-dir={folder}/ray",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            '--resources={"driver": 1}',
            f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={agent_grpc}",
            f"--runtime-env-agent-port={runtime_env}",
            f"--metrics-export-port={metrics}",
        ],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 120
        while not is_up(url, agent):
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield Head(dashboard, gcs, env)
    finally:
        stop_head(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_head_runs_without_the_server_of_ray_client(head):
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(path.read_bytes().decode(errors="replace"))
    own = [line for line in commands if head.gcs_port in line]
    assert any("dashboard" in line for line in own)
    assert not [line for line in own if "ray.util.client.server" in line]


def stop_head(process):
    """Stop the head in order, then what may be left of its process group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def test_a_job_that_succeeds_streams_its_log_and_exits_with_0(head, tmp_path):
    done = head.submit(
        "phantom", "--address", head.url, "--on-worker", "--",
        "--workspace", str(tmp_path), "--set", "phantom.num_patients=2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "submitted phantom as raysubmit_" in done.stderr
    assert str(tmp_path) in done.stdout
    assert list((tmp_path / "phantom").glob("*.png"))


def test_a_users_mistake_in_a_job_shows_its_one_line_and_exits_with_2(head, tmp_path):
    done = head.submit("embed", "--address", head.url, "--", "--workspace", str(tmp_path))
    assert done.returncode == 2
    assert "error: no dataset 'phantom'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: job raysubmit_")
    assert "FAILED" in last


def test_a_job_joins_the_cluster_it_runs_on_with_the_shipped_source(head, tmp_path):
    done = head.submit(
        "doctor", "--address", head.url, "--dev", "--", "--workspace", str(tmp_path), "--json"
    )
    assert "worker" in done.stdout, done.stdout + done.stderr
    assert "a job of the cluster at" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("submitted doctor as ")]
    job = json.loads(read(f"{head.url}/api/jobs/{line.split()[-1]}"))
    shipped = job["runtime_env"]["py_modules"]
    assert len(shipped) == 4
    assert all(uri.startswith("gcs://") for uri in shipped)


def test_interrupting_leaves_the_job_running_and_says_how_to_follow_it(head, tmp_path):
    ray_job = [BIN / "ray", "job"]
    client = subprocess.Popen(
        [BIN / "sonoray", "submit", "doctor", "--address", head.url, "--", "--workspace", tmp_path],
        env=head.env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(120, client.kill)
    watchdog.start()
    try:
        first = client.stderr.readline()
        assert "submitted doctor as " in first
        job = first.split()[-1]
        client.send_signal(signal.SIGINT)
        rest = client.stderr.read()
    finally:
        watchdog.cancel()
        client.kill()
    assert client.wait() == 130
    assert f"ray job stop --address {head.url} {job}" in rest
    assert "Traceback" not in rest
    status = subprocess.run(
        [*ray_job, "status", "--address", head.url, job],
        env=head.env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "STOPPED" not in status.stdout + status.stderr
    subprocess.run(
        [*ray_job, "stop", "--address", head.url, job],
        env=head.env, capture_output=True, timeout=120, check=True,
    )  # fmt: skip


def test_without_waiting_the_id_is_printed(head, tmp_path):
    done = head.submit(
        "phantom", "--no-wait", "--address", head.url, "--",
        "--workspace", str(tmp_path), "--dry-run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raysubmit_")


@pytest.mark.parametrize("token", [None, "not-the-token-of-this-cluster-at-all"])
def test_a_missing_or_wrong_token_is_one_line(head, token):
    env = clean_environment() | ({"RAY_AUTH_TOKEN": token} if token else {})
    done = head.submit("phantom", "--address", head.url, env=env)
    assert done.returncode == 2
    assert "token" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert TOKEN not in done.stderr
