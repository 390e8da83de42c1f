"""A worker that waits for one that hangs: it gives up, and says for what it waited."""

import subprocess
import sys

import pytest

from sonoray.errors import JobFailedError
from sonoray_jobs.training.steps.hang import named_hang

PAIR = """
import datetime
import multiprocessing
import sys
import time

import torch

from sonoray_jobs.training.steps.hang import named_hang


def work(rank):
    store = torch.distributed.FileStore(sys.argv[1], 2)
    patience = datetime.timedelta(seconds=2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=patience
    )
    torch.distributed.all_reduce(torch.ones(1))
    if rank == 1:
        time.sleep(60)  # as one that was stopped, or waits for its disk
    with named_hang(rank, 2, lambda: "step 7"):
        torch.distributed.all_reduce(torch.ones(1))


fork = multiprocessing.get_context("fork")
other = fork.Process(target=work, args=(1,), daemon=True)
other.start()
try:
    work(0)
finally:
    other.kill()
"""


def test_who_waits_for_a_worker_that_hangs_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PAIR, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "JobFailedError: worker 0 waited 2 s at step 7 for another worker, which hangs" in last
    assert "raise train.collective_timeout_s" in last


def test_any_other_error_is_what_it_was():
    with pytest.raises(RuntimeError, match="out of memory") as caught, named_hang(0, 1, str):
        raise RuntimeError("out of memory")
    assert not isinstance(caught.value, JobFailedError)
