import subprocess
import sys

import pytest

from sonoray_jobs.road.device_check import _lacking_gpus


def node(address, **resources):
    return {"NodeManagerAddress": address, "Resources": resources}


def test_gpus_of_before_ampere_are_known_by_rays_name_of_them():
    nodes = [
        node("10.0.0.1", CPU=8, GPU=2, **{"accelerator_type:V100": 1}),
        node("10.0.0.2", CPU=8, GPU=1, **{"accelerator_type:A100": 1}),
        node("10.0.0.3", CPU=8, GPU=1),
        node("10.0.0.4", CPU=8, **{"accelerator_type:T4": 1}),  # none of it is Ray's to give
    ]
    assert _lacking_gpus(nodes) == ["10.0.0.1 (V100)"]


def test_the_names_are_rays():
    """A canary: Ray tells a node's GPU by these constants."""
    from ray.util import accelerators

    from sonoray_jobs.road.device_check import _LACKING_GPUS

    names = {value for value in vars(accelerators).values() if isinstance(value, str)}
    assert names >= _LACKING_GPUS


@pytest.mark.parametrize("uses_gpus", [False, True])
def test_float32_asks_nobody(uses_gpus):
    code = (
        "import sys; from sonoray_jobs.road.device_check import require_precisions; "
        f"require_precisions({{'train.precision': 'float32'}}, uses_gpus={uses_gpus}); "
        "print('ray' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
