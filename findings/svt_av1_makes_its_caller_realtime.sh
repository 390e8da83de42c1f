#!/usr/bin/env bash
# SVT-AV1 4.1.0 (in the wheel of PyAV 18.1): run as root, opening its encoder moves the calling thread
# into the real-time class SCHED_FIFO at priority 99, and closing it does not move it back.
#
# Version: av 18.1.0, SVT-AV1 4.1.0, Linux.
# What one would expect: an encoder may raise the priority of threads of its own. The thread that
# calls it keeps its scheduling class, at the latest once the encoder is closed.
# What happens: after one 64 x 64 frame the process is SCHED_FIFO 99, and so is each process that it
# starts later (the class is inherited by fork and exec). On a machine with few cores such a process,
# a test runner or a data loader in a container that runs as root, starves all that is not real-time.
# The log does not tell: all it says of priorities is that it failed to set one of a thread. The process
# of another user keeps its class.
# The cure: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)) once the encoder is open.
# Seen: the class before and after, and that of a child. The script fails if that changes; it needs
# root (and the right to set real-time priorities, which some containers lack).
set -euo pipefail
test "$(id -u)" = 0 || { echo "error: run as root; another user sees no change" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy>=2"
cat >"$scratch/encode.py" <<'PYTHON'
import io
import os
import subprocess
import sys

import av
import numpy as np

CHILD = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"


def scheduling():
    mine = (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    return mine, tuple(map(int, child.stdout.split()))


def encode(name):
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        stream = container.add_stream(name, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        grey = np.full((64, 64, 3), 128, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


usual, realtime = (os.SCHED_OTHER, 0), (os.SCHED_FIFO, 99)
assert scheduling() == (usual, usual), scheduling()
encode("libx264")
assert scheduling() == (usual, usual), scheduling()
encode("libsvtav1")
found = scheduling()
print({"this process": found[0], "its child": found[1]})
assert found == (realtime, realtime), found
PYTHON
"$scratch/venv/bin/python" "$scratch/encode.py"
