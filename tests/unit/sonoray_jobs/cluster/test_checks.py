from pathlib import Path

import pytest

from sonoray_jobs.cluster.checks import (
    GIB,
    Check,
    Status,
    check_cpus,
    check_disk,
    check_headers,
    check_memory,
    check_port,
    check_program,
    check_python,
    check_ray_instances,
    check_shared_memory,
    check_token,
    check_torch,
)

OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (check_python((3, 11, 0)), OK),
        (check_python((3, 10, 14)), FAIL),
        (check_program("ninja", "/usr/bin/ninja", "install it"), OK),
        (check_program("ninja", None, "install it"), FAIL),
        (check_program("git", None, "install it", needed=False), WARN),
        (check_headers(Path("Python.h"), exists=True), OK),
        (check_headers(Path("Python.h"), exists=False), FAIL),
        (check_torch("2.15.0+cpu", "0.29.2+cpu", None, has_gpu=False), OK),
        (check_torch("2.15.0+cpu", "0.29.2+cpu", None, has_gpu=True), WARN),
        (check_torch("2.15.0", "0.29.2", "13.2", has_gpu=True), OK),
        (check_cpus(2, 0.3), OK),
        (check_cpus(2, 2.4), WARN),
        (check_cpus(1, 0.0), WARN),
        (check_memory(16 * GIB), OK),
        (check_memory(6 * GIB), WARN),
        (check_memory(2 * GIB), FAIL),
        (check_disk(Path("/"), 20 * GIB), OK),
        (check_disk(Path("/"), 5 * GIB), WARN),
        (check_disk(Path("/"), GIB), FAIL),
        (check_shared_memory(2 * GIB, GIB), OK),
        (check_shared_memory(64 * 1024**2, GIB), WARN),
        (check_port(8000, "sonoray serve", taken=False), OK),
        (check_port(8000, "sonoray serve", taken=True), WARN),
        (check_ray_instances(set(), None), OK),
        (check_ray_instances({"10.0.0.5:6379"}, None), WARN),
        (check_ray_instances(set(), "10.0.0.5:6379"), WARN),
        (check_ray_instances({"10.0.0.5:6379"}, "10.0.0.5:6379", in_job=True), OK),
        (check_token(Path("auth_token"), None), OK),
        (check_token(Path("auth_token"), 0o600), OK),
        (check_token(Path("auth_token"), 0o400), OK),
        (check_token(Path("auth_token"), 0o644), FAIL),
    ],
    ids=lambda value: f"{value.name}-{value.found}" if isinstance(value, Check) else str(value),
)
def test_a_check_judges_what_was_measured_and_names_the_fix(check, status):
    assert check.status is status
    assert check.found
    assert bool(check.fix) == (status is not OK)


def test_the_finding_names_the_offending_value():
    assert "10.0.0.5:6379" in check_ray_instances({"10.0.0.5:6379"}, None).found
    assert "chmod 600 auth_token" in check_token(Path("auth_token"), 0o644).fix
    assert "0644" in check_token(Path("auth_token"), 0o644).found
    assert "3.10.14" in check_python((3, 10, 14)).found
