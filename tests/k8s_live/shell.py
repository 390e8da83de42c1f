"""A shell in a cluster whose Pods are real processes: `python tests/k8s_live/shell.py [COMMAND]`.

Inside it kubectl and `sonoray k8s` see a control plane, KubeRay's operator and one node. Nothing
of it outlives the shell. It has to be root on Linux, after `make k8s-tools`.
"""

import sys
import tempfile
from pathlib import Path

from real_cluster import RealCluster, unable
from resource_definitions import SCHEMAS, definitions


def main() -> int:
    """Start all, run the command, end all."""
    reason = unable()
    if not reason and not SCHEMAS.is_dir():
        reason = f"no resource definitions at {SCHEMAS}; set SONORAY_SHARED_DATA"
    if reason:
        sys.exit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as scratch:
        cluster = RealCluster(Path(scratch))
        try:
            sys.stderr.write("a control plane and a node start, which takes a minute\n")
            cluster.start()
            for each in definitions():
                cluster.apply([each])
            cluster.start_operator()
            sys.stderr.write(f"logs lie in {scratch}; the cluster ends with this shell\n")
            return cluster.call(*(sys.argv[1:] or ["bash"]))
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
