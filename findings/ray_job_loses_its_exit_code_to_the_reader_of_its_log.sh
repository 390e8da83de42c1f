#!/usr/bin/env bash
# Ray 2.60 Jobs: whoever reads the log of a job shortly before it fails takes its exit code away.
#
# Version: ray[default] 2.60.0, CPU only; a head, and a second node on which the job's driver runs
# because it asks for a resource of that node (as KubeRay's `entrypointResources` has it).
# What one would expect: reading a log changes nothing. A job whose command ends with status 3 is
# FAILED with `driver_exit_code` 3 and a message that names the code and holds the log's end.
# What happens: the first request for a log makes the agent of the driver's node watch every job
# that is not finished. The new watcher first looks a second later; a job that has failed by then has
# no supervisor any more, and is written FAILED once more, over the first time: `driver_exit_code` is
# gone, and the message is "Unexpected error occurred: failed to get job supervisor." A SUCCEEDED
# status is not replaced: only one terminal status over the same one is let through. `ray job submit`
# and KubeRay's submitter read the log as a matter of course, so that a command which fails in its
# first seconds, as with a wrong option, is told without its reason.
# Seen: without a reader `3`, with one `None` in 3 of 3 tries.
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0"
export RAY_USAGE_STATS_ENABLED=0 RAY_raylet_start_wait_time_s=120
cat >"$scratch/jobs.py" <<'PYTHON'
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

near = Path(sys.argv[1])


def submit(client):
    """Submit the job, as soon as a node's agent takes it."""
    for _ in range(60):
        try:
            return client.submit_job(
                entrypoint=f"sh -c 'sleep 2; touch {near}; sleep 0.6; exit 3'",
                entrypoint_resources={"driver": 1},
            )
        except RuntimeError:
            time.sleep(1)
    sys.exit("no agent took the job")


def run(client, reads):
    """The exit code and message of a job that fails with 3 some time after it says so."""
    near.unlink(missing_ok=True)
    job = submit(client)
    while not near.exists():
        time.sleep(0.02)
    if reads:
        client.get_job_logs(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.1)
    time.sleep(3)
    info = client.get_job_info(job)
    return info.driver_exit_code, (info.message or "").splitlines()[0]


cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0},
)
found = []
try:
    for number, reads in enumerate((False, True, True, True)):
        # an agent that watches nothing yet
        node = cluster.add_node(
            num_cpus=1, resources={"driver": 1}, dashboard_agent_listen_port=52400 + number
        )
        cluster.wait_for_nodes()
        client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
        found.append(run(client, reads))
        print("read" if reads else "not read", found[-1], flush=True)
        cluster.remove_node(node)
finally:
    cluster.shutdown()
if found[0][0] != 3 or any(code is not None for code, _ in found[1:]):
    sys.exit("this has changed")
PYTHON
"$scratch/venv/bin/python" "$scratch/jobs.py" "$scratch/near"
