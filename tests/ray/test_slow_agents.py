"""A raylet gives its agents 15 s; ours, which knows their ports, does not wait for them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sonoray_jobs.cluster.kubernetes.manifests.ray_clusters import AGENT_PORTS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SLOW_S = 20
KUBERAY = ("metrics-export-port", "dashboard-agent-listen-port")
"""The ports of agents that KubeRay gives to every node."""
SLEEP = f"""
import sys, time
if any(word.endswith(("dashboard/agent.py", "agent/main.py")) for word in sys.orig_argv):
    time.sleep({SLOW_S})
"""


def free_ports(count):
    probes = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def started(tmp_path):
    """Start a head whose agents take their time; its exit status where it ended, and its log."""
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    folder = Path(tempfile.mkdtemp(prefix="sa-", dir="/tmp"))  # sockets need a short path
    processes = []

    def start(module):
        options = [*KUBERAY, *AGENT_PORTS]
        gcs, *ports = free_ports(1 + len(options))
        log = folder / "head.log"
        words = [f"--{name}={port}" for name, port in zip(options, ports, strict=True)]
        with log.open("w") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", module, "start", "--head"),
                    *("--block", "--num-cpus=0", "--include-dashboard=false"),
                    *(f"--port={gcs}", f"--temp-dir={folder}/ray", *words),
                ],
                env={**os.environ, "PYTHONPATH": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        deadline = time.monotonic() + 400
        while process.poll() is None and "Ray runtime started" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        return process.poll(), log.read_text()

    yield start
    for process in processes:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        # also what a head that gave up left behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_node_starts_though_its_agents_are_slow(started):
    code, log = started("sonoray_jobs.cluster.ray_node")
    assert code is None, log


def test_ray_by_itself_still_gives_up_on_slow_agents(started):
    """Once this fails, Ray waits longer, and the manifests may use its own command."""
    code, log = started("ray.scripts.scripts")
    assert code == 1, log
    assert "timed out during startup" in log
