"""Every expected error survives the way between processes and exits with its code."""

import importlib
import pickle
import pkgutil

import pytest

import sonoray
from sonoray.errors import JobFailedError, SonoError


def all_errors() -> list[type[SonoError]]:
    """Return `SonoError` and every subclass that any platform module defines."""
    for module in pkgutil.walk_packages(sonoray.__path__, "sonoray."):
        importlib.import_module(module.name)
    found, queue = [], [SonoError]
    while queue:
        found.append(queue.pop())
        queue.extend(found[-1].__subclasses__())
    return sorted(found, key=lambda error: error.__name__)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_error_survives_pickling(kind):
    error = kind("too_small: side 3 is below 16; send a larger image")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.args == error.args
    assert str(copy) == str(error)
    assert copy.exit_code == error.exit_code


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_only_a_job_that_ran_and_failed_exits_with_one(kind):
    assert kind.exit_code == (1 if issubclass(kind, JobFailedError) else 2)
