#!/usr/bin/env bash
# Ray Train 2.60: `ray.train.report` of metrics alone blocks for the controller's polling interval.
#
# Version: ray[train] 2.60.0 (train v2, the default), CPU only.
# What one would expect: a call that reports one number returns in milliseconds; no checkpoint is
# written, no upload is waited for.
# What happens: a call returns when the controller has taken the result of the one before, and the
# controller looks every RAY_TRAIN_HEALTH_CHECK_INTERVAL_S, 2 s by default. A loop that reports once
# an epoch pays 2 s an epoch, however short the epoch is. At 0.2 the same call takes 0.2 s.
# Seen (seconds a call, from the third on): 2.0 by default, 0.2 at 0.2; the first ones take longer,
# as the controller starts.
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "ray[train]==2.60.0"
cat >"$scratch/report.py" <<'PYTHON'
import json
import os
import statistics
import sys
import time

import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop(config):
    seconds = []
    for number in range(5):
        start = time.monotonic()
        ray.train.report({"loss": float(number)})
        seconds.append(time.monotonic() - start)
    with open(config["out"], "w") as file:
        json.dump(seconds, file)


out, storage = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
DataParallelTrainer(
    loop,
    train_loop_config={"out": out},
    scaling_config=ray.train.ScalingConfig(num_workers=1),
    run_config=ray.train.RunConfig(name="run", storage_path=storage),
).fit()
with open(out) as file:
    seconds = json.load(file)
print(os.environ.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "default"), *(f"{s:.2f}" for s in seconds))
with open(f"{out}.median", "w") as file:
    file.write(str(statistics.median(seconds[2:])))
PYTHON
export RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_TRAIN_HEALTH_CHECK_INTERVAL_S
"$scratch/venv/bin/python" "$scratch/report.py" "$scratch/default" "$scratch/runs-default" 2>/dev/null
RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.2 \
  "$scratch/venv/bin/python" "$scratch/report.py" "$scratch/often" "$scratch/runs-often" 2>/dev/null
"$scratch/venv/bin/python" - "$(cat "$scratch/default.median")" "$(cat "$scratch/often.median")" <<'PYTHON'
import sys

default, often = map(float, sys.argv[1:])
assert 1.5 < default < 3, f"a report takes {default:.2f} s by default, no longer about 2"
assert often < 1, f"a report takes {often:.2f} s at an interval of 0.2 s, no longer about 0.2"
print(f"seen: {default:.2f} s a report by default, {often:.2f} s at an interval of 0.2 s")
PYTHON
