"""What Ray Data's loop takes of the CPU while its consumer sleeps, in a process of its own."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_ROWS = 40
SCRIPT = f"""
import json, sys, time
import numpy as np, ray
from sonoray.cluster.data_pause import pause_idle_loops
from sonoray.cluster.session import ray_session

class Load:
    def __init__(self, size):
        self.size = size
    def __call__(self, row):
        return {{"bytes": np.full(self.size, row["item"], dtype=np.uint8)}}

def share(num_bytes):
    numbers = list(range({NUM_ROWS}))
    loaded = ray.data.from_items(numbers, override_num_blocks={NUM_ROWS}).map(
        Load,
        fn_constructor_args=(num_bytes,),
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0,
    )
    rows = iter(loaded.iter_rows())
    got = [int(next(rows)["bytes"][0])]
    time.sleep(4)  # what may be loaded ahead is
    begun, begun_s = time.process_time(), time.monotonic()
    time.sleep(4)
    found = (time.process_time() - begun) / (time.monotonic() - begun_s)
    return found, sorted(got + [int(row["bytes"][0]) for row in rows])

with ray_session("local"):
    room = int(ray.cluster_resources()["object_store_memory"])
    busy, rows = share(2 * room // {NUM_ROWS})
    pause_idle_loops()
    pause_idle_loops()
    paused, again = share(2 * room // {NUM_ROWS})
    classes = ray.data.DataContext.get_current().custom_execution_callback_classes
print(json.dumps([busy, paused, rows == again == list(range({NUM_ROWS})), len(classes)]))
"""


def test_a_loop_whose_consumer_is_slow_leaves_the_cpu_to_others():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    busy, paused, are_equal, num_classes = json.loads(done.stdout.splitlines()[-1])
    assert paused < busy / 2, (busy, paused)
    assert (are_equal, num_classes) == (True, 1)
