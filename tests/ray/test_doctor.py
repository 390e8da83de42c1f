import os
import sys
from pathlib import Path

import pytest

from sonoray_jobs.cluster import doctor
from sonoray_jobs.cluster.checks import Status

pytestmark = pytest.mark.ray


def test_the_checks_run_in_a_worker_of_every_node_too(ray_local, tmp_path):
    report = doctor.run(workspace=tmp_path, address=None)
    places = {check.where for check in report.checks}
    assert len(places) == 2
    workers = {check.name: check for check in report.checks if check.where.startswith("worker ")}
    assert {"Python", "compiler", "ninja", "torch pair", "memory", "disk"} <= set(workers)
    assert Path(workers["ninja"].found).name == "ninja"
    assert os.path.dirname(workers["ninja"].found) == str(Path(sys.executable).parent)
    (instances,) = [check for check in report.checks if check.name == "Ray instances"]
    assert instances.status is Status.WARN
    assert ray_local in instances.found
