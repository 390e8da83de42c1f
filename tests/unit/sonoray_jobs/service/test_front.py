"""What Ray wrote for HAProxy, and what becomes of it before HAProxy reads it."""

import json
import subprocess
from pathlib import Path

import pytest

from sonoray_jobs.service.front import RETRY_AFTER_S, _script, front

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"


def test_a_request_that_reaches_no_ingress_gets_an_honest_answer(tmp_path: Path):
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text("    bind :9101\n    bind *:8000\n  bind *:8404\n  bind *:84040\n")
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
    script = tmp_path / "haproxy"
    script.write_text(_script("/bin/echo", (9101, 8404)))
    script.chmod(0o700)
    done = subprocess.run(
        [str(script), "-db", "-f", str(configuration), "-sf", "1"], capture_output=True, check=True
    )
    assert done.stdout.decode().split() == ["-db", "-f", str(configuration), "-sf", "1"]
    assert configuration.read_text() == (
        "    bind 127.0.0.1:9101\n    bind *:8000\n  bind 127.0.0.1:8404\n  bind *:84040\n"
    )
    head, _, body = (tmp_path / "500.http").read_bytes().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].split()[1] == "503"
    assert f"Retry-After: {RETRY_AFTER_S}" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert json.loads(body)["error"]["code"] == "unavailable"


def test_rays_configuration_is_the_one_that_is_changed():
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE as TEMPLATE

    assert "\n    bind :{{ config.metrics_port }}\n" in TEMPLATE
    assert "\n  bind *:{{ config.stats_port }}\n" in TEMPLATE
    others = [line for line in TEMPLATE.splitlines() if line.strip().startswith("bind ")]
    assert len(others) == 4, others  # the service's own two have its host in front of the port
    for status in (502, 503, 504):
        assert f"errorfile {status} {{{{ config.error_file_path }}}}" in TEMPLATE


def test_its_files_are_the_services_own_and_go_with_it():
    with front("127.0.0.1", haproxy=True, is_private=True) as environment:
        folder = Path(environment[BINARY]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        paths = [value for value in environment.values() if value.startswith("/")]
        assert {Path(path).parent for path in paths} <= {folder, folder.parent}
        assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("host", "haproxy"), [("127.0.0.1", False), ("192.0.2.7", True), ("::1", True)]
)
def test_other_hosts_and_wishes_get_ray_serves_own_proxy(host: str, haproxy: bool):
    with front(host, haproxy=haproxy, is_private=True) as environment:
        assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment
        assert BINARY not in environment


def test_a_ray_of_others_is_left_as_it_is():
    with front("127.0.0.1", haproxy=True, is_private=False) as environment:
        assert environment == {}
