#!/usr/bin/env bash
# Ray Data 2.60: the scheduling loop takes a core while its consumer does nothing.
#
# Version: ray[data] 2.60.0, CPU only.
# What one would expect: when as much is loaded ahead as backpressure allows, the executor waits for
# the consumer and uses next to no CPU, as it does when everything is loaded.
# What happens: outputs that are ready and may not be read yet make each wait of the loop return at
# once, so that it turns without a pause, in the process that iterates (with `streaming_split`, in
# the coordinator actor). A training whose data are larger than their share of the object store is
# in that state most of the time.
# Seen, share of a core while the consumer sleeps: rows of a kilobyte 0.04 to 0.08, rows that are
# together twice the object store 0.40 to 0.86, by how busy the machine was with other work; with a
# sleep in an execution callback 0.10 to 0.17.
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0"
cat >"$scratch/spin.py" <<'PYTHON'
import sys
import time

import numpy as np
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

ROWS, STORE = 60, 400_000_000


class Pause(ExecutionCallback):
    def on_execution_step(self, executor):
        time.sleep(0.01)


class Load:
    def __init__(self, size):
        self.size = size

    def __call__(self, row):
        return {"bytes": np.ones(self.size, dtype=np.uint8)}


def share(size):
    """Of a core, while the consumer sleeps."""
    rows = iter(
        ray.data.from_items(list(range(ROWS)), override_num_blocks=ROWS)
        .map(
            Load,
            fn_constructor_args=(size,),
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,
        )
        .iter_rows()
    )
    next(rows)
    time.sleep(4)
    begun, begun_s = time.process_time(), time.monotonic()
    time.sleep(5)
    found = (time.process_time() - begun) / (time.monotonic() - begun_s)
    assert sum(1 for _ in rows) == ROWS - 1
    return found


ray.init(
    num_cpus=2,
    object_store_memory=STORE,
    include_dashboard=False,
    log_to_driver=False,
    logging_level="ERROR",
)
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
small, large = share(1_000), share(2 * STORE // ROWS)
context.custom_execution_callback_classes = [Pause]
paused = share(2 * STORE // ROWS)
print(f"small rows {small:.2f}, large rows {large:.2f}, large rows with pauses {paused:.2f}")
sys.exit(not (large > 4 * small and large > 2 * paused))
PYTHON
export RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS
"$scratch/venv/bin/python" "$scratch/spin.py" 2>/dev/null && echo "as described" || {
  echo "Ray Data no longer does what is described here" >&2
  exit 1
}
