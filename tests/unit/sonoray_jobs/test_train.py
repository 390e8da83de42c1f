import signal
import subprocess
import sys
import threading

import pytest

from sonoray.errors import JobFailedError
from sonoray_jobs.train import restored_interrupt, sole_training

HOLDER = """
import sys
from pathlib import Path
from sonoray_jobs.train import sole_training

with sole_training(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_training_that_runs_elsewhere_is_refused_until_its_process_is_gone(tmp_path):
    folder = tmp_path / "runs" / "phantom-0123"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(JobFailedError, match="'phantom-0123' is running in another process"),
            sole_training(folder),
        ):
            pass
        holder.kill()  # as a crash would
    with sole_training(folder):
        pass


def test_ctrl_c_is_what_it_was_though_the_training_changed_it_and_failed():
    before = signal.getsignal(signal.SIGINT)

    def fail():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise RuntimeError

    with pytest.raises(RuntimeError), restored_interrupt():
        fail()
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_signals_are_left_alone():
    done = []

    def work():
        with restored_interrupt():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
