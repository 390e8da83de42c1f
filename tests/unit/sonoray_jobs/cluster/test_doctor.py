import json
import stat
import sys
from pathlib import Path

import pytest
from ray.exceptions import GetTimeoutError, RayTaskError, WorkerCrashedError

from sonoray_jobs.cluster import doctor
from sonoray_jobs.cluster.checks import GIB, Check, Status, check_memory
from sonoray_jobs.cluster.doctor import Report

OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL


def test_this_machine_is_measured_with_the_given_path(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    without = {check.name: check for check in doctor.measure_machine(tmp_path / "new", str(empty))}
    assert without["ninja"].status is FAIL
    assert str(Path(sys.executable).parent) in without["ninja"].fix
    assert without["compiler"].status is FAIL
    assert without["Python"].status is OK
    assert without["torch pair"].status is not FAIL
    assert not (tmp_path / "new").exists()

    ninja = tmp_path / "bin" / "ninja"
    ninja.parent.mkdir()
    ninja.touch(mode=stat.S_IRWXU)
    beside = {check.name: check for check in doctor.measure_machine(tmp_path, str(ninja.parent))}
    assert beside["ninja"].found == str(ninja)


def test_a_taken_port_is_noticed():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.is_taken(port)
    assert not doctor.is_taken(port)


TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in <module>
ModuleNotFoundError: No module named 'sonoray_jobs'
"""


@pytest.mark.parametrize(
    ("error", "found", "fix"),
    [
        (GetTimeoutError("Get timed out"), "120 s", "run this again"),
        (RayTaskError("measure", TRACEBACK, RuntimeError()), "No module named 'sonor", "wheel"),
        (WorkerCrashedError(), "worker died unexpectedly", "ray stop"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_node_that_cannot_answer_is_one_failed_check_that_names_it(error, found, fix):
    def get():
        raise error

    (check,) = doctor.check_node("10.0.0.6", get)
    assert (check.status, check.where) == (FAIL, "worker 10.0.0.6")
    assert found in check.found
    assert "\n" not in check.found
    assert fix in check.fix


def test_what_a_node_found_is_marked_with_its_name():
    (check,) = doctor.check_node("10.0.0.6", lambda: [check_memory(16 * GIB)])
    assert (check.name, check.where) == ("memory", "worker 10.0.0.6")


def report_of(*statuses):
    return Report(
        checks=tuple(
            Check(name=f"check {status}", status=status, found="something", fix=f"fix {status}")
            for status in statuses
        )
    )


def test_a_report_is_healthy_unless_a_check_failed():
    assert report_of(OK, WARN).healthy
    assert not report_of(OK, FAIL, WARN).healthy


def test_a_report_is_a_table_for_people_and_plain_values_for_programs():
    report = report_of(OK, FAIL)
    text = "\n".join(report.lines())
    assert "fix fail" in text
    assert text.endswith("1 of 2 checks failed")
    assert report_of(OK).lines()[-1] == "healthy"
    values = json.loads(json.dumps(report.to_json()))
    assert values["healthy"] is False
    assert values["checks"][1]["status"] == "fail"
    assert set(values["checks"][0]) == {"name", "status", "found", "fix", "where"}


def test_an_unreachable_cluster_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "measure_machine", lambda *_: [])
    report = doctor.run(workspace=tmp_path, address="127.0.0.1:1")
    assert not report.healthy
    failed = next(check for check in report.checks if check.status is FAIL)
    assert failed.name == "Ray"
    assert "127.0.0.1:1" in failed.found
