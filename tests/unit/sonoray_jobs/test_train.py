import signal
import threading

import pytest

from sonoray_jobs.train import restored_interrupt


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
