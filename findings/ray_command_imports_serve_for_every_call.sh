#!/usr/bin/env bash
# Ray 2.60: every call of the command `ray` imports Ray Serve, pandas and FastAPI, whatever is asked.
#
# Version: ray[default,serve] 2.60.0 with pandas 2.3.3, CPU only.
# What one would expect: `ray start`, `ray health-check` and `ray job ...` load what they need; a
# node or a probe is not slower for what else is installed.
# What happens: the module of the command line imports `ray.serve.scripts` at its top, inside a
# try/except, to add the group `ray serve`. With the extra `serve` installed that loads FastAPI,
# gRPC, and pandas where it is there, before the arguments are read. KubeRay 1.6 calls `ray` when a
# node starts, while a worker waits for its head, and three times one after the other to submit a job
# (status, submit, logs), so that a Pod with one core pays for it each time.
# Where that import fails, as it does without the extra, the command goes on without the group.
# Seen: 3.4 s of CPU time for `ray --version` and 1.7 s with that import made to fail (medians of 5).
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check \
  "ray[default,serve]==2.60.0" "pandas==2.3.3"
cat >"$scratch/cost.py" <<'PYTHON'
import resource
import statistics
import subprocess
import sys

LINES = {
    "as it is": "",
    "without ray.serve.scripts": "sys.modules['ray.serve.scripts'] = None; ",
}
RUN = (
    "import sys; {}from ray.scripts.scripts import cli; "
    "cli(['--version'], standalone_mode=False); "
    "print([name for name in ('ray.serve', 'pandas', 'fastapi') if sys.modules.get(name)])"
)


def call(before):
    """CPU seconds of one call, and which of the modules it loaded."""
    was = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(before)], capture_output=True, text=True, check=True
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - was.ru_utime - was.ru_stime, done.stdout.splitlines()[-1]


for before in LINES.values():
    call(before)  # bytecode is written once
took = {name: [] for name in LINES}
loaded = {}
for _ in range(5):
    for name, before in LINES.items():
        seconds, loaded[name] = call(before)
        took[name].append(seconds)
median = {name: statistics.median(each) for name, each in took.items()}
for name in LINES:
    print(f"{name}: {median[name]:.2f} s of CPU time, loads {loaded[name]}")
as_it_is, without = median.values()
assert loaded["as it is"] == "['ray.serve', 'pandas', 'fastapi']", loaded
assert loaded["without ray.serve.scripts"] == "[]", loaded
assert as_it_is > 1.5 * without, median
PYTHON
"$scratch/venv/bin/python" "$scratch/cost.py"
echo "as described: every call of ray imports Ray Serve, for half of its CPU time"
