"""What nodes say of their precision, on a real Ray; oneDNN is told that its CPU is an older one."""

import json
import os
import subprocess
import sys

import pytest

from llava_ultra.parameters.products import cpu_has_bfloat16
from sonoray.errors import ConfigError
from sonoray_jobs.road.device_check import require_precisions

pytestmark = pytest.mark.ray

ROADS = """
import json, sys
from pathlib import Path
from sonoray.cluster.session import ray_session
from sonoray.errors import ConfigError
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.serve import serving
from sonoray_jobs.towers import embed
from sonoray_jobs.training import train

workspace = Workspace.open(Path(sys.argv[1]))
plain = RoadConfig.model_validate_json(sys.argv[2])


def with_precision(section):
    values = plain.model_dump()
    values[section]["precision"] = "bfloat16"
    return RoadConfig.model_validate(values)


def serve(road):
    with serving(
        workspace=workspace, model=sys.argv[3], config=road.serve, port=0, insecure_local=True
    ):
        pass


def job(module):
    return lambda road: module.run(workspace=workspace, road=road, dataset="phantom")


found = {}
with ray_session():
    for section, run in (
        ("embed", job(embed)),
        ("train", job(train)),
        ("evaluate", job(evaluate)),
        ("serve", serve),
    ):
        try:
            run(with_precision(section))
        except ConfigError as error:
            found[section] = str(error)
print(json.dumps(found))
"""


@pytest.mark.skipif(cpu_has_bfloat16(), reason="this CPU has bfloat16")
def test_nodes_that_lack_it_are_refused(ray_local):
    with pytest.raises(ConfigError, match="needs a CPU with AVX-512"):
        require_precisions({"train.precision": "bfloat16"}, uses_gpus=False)


@pytest.mark.slow
def test_every_job_refuses_a_node_that_lacks_the_precision_before_it_starts(finished_road):
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    before = sorted(finished_road.workspace.root.rglob("*"))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ROADS,
            str(finished_road.workspace.root),
            finished_road.road.model_dump_json(),
            str(finished_road.exported.path),
        ],
        env={**environment, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["embed", "train", "evaluate", "serve"]
    for section, message in found.items():
        assert message.startswith(f"{section}.precision 'bfloat16' needs a CPU with AVX-512, which")
        assert message.endswith(
            f"set {section}.precision to float32, or leave them out of the cluster"
        )
    made = set(finished_road.workspace.root.rglob("*")).difference(before)
    assert not [path for path in made if path.suffix == ".arrow" or "checkpoint" in path.name]
