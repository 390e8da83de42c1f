"""Ray asks, and starts a raylet, in the ways that `ray_node` changes."""

import subprocess
import sys
from pathlib import Path

import pytest

from sonoray_jobs.cluster.ray_node import with_agent_port, without_client


def test_ray_asks_what_is_answered_and_has_no_option_of_its_own(monkeypatch):
    from ray.scripts import scripts

    asked = scripts.get_ray_client_dependency_error
    monkeypatch.setattr(scripts, "get_ray_client_dependency_error", asked)
    assert asked() is None  # grpc is there, so that Ray would start the server
    without_client(scripts)
    assert isinstance(scripts.get_ray_client_dependency_error(), ImportError)
    options = {name for option in scripts.start.params for name in option.opts}
    assert {name for name in options if "client" in name} == {"--ray-client-server-port"}


def test_a_raylet_is_told_the_port_of_its_agent_where_one_was_given(monkeypatch):
    from ray._private import ray_constants, services

    started = []
    monkeypatch.setattr(
        services, "start_ray_process", lambda command, kind: started.append(command)
    )
    with_agent_port(services)
    agent = "--dashboard_agent_command=agent.py --listen-port={} --grpc-port=8091"
    for kind, port in (
        (ray_constants.PROCESS_TYPE_RAYLET, 52365),
        ("gcs_server", 52365),
        ("raylet", 0),
    ):
        services.start_ray_process(["raylet", agent.format(port)], kind)
    assert [command[2:] for command in started] == [["--dashboard_agent_listen_port=52365"], [], []]


@pytest.mark.parametrize(
    ("words", "has_serve"),
    [
        (["start", "--help"], False),
        (["job", "submit", "--help"], False),
        (["serve", "--help"], True),
    ],
)
def test_ray_serve_is_imported_for_its_own_commands_alone(words, has_serve):
    line = (
        "import atexit, sys; from sonoray_jobs.cluster import ray_node; "
        "atexit.register(lambda: print('SERVE', bool(sys.modules.get('ray.serve')))); "
        "ray_node.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", line, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"SERVE {has_serve}"
    assert f"{' '.join(words[:-1])} [OPTIONS]" in done.stdout


def test_the_ray_of_the_image_passes_its_words_on(tmp_path):
    lean = Path(__file__).resolve().parents[4] / "k8s" / "lean" / "ray"
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        [lean, "job", "submit", "--", "a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = ["-m", "sonoray_jobs.cluster.ray_node", "job", "submit", "--", "a b"]
    assert done.stdout.splitlines() == words
