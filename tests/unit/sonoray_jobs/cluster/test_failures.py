import pytest

from sonoray.errors import ConfigError, DataError, JobFailedError, SonoError
from sonoray.images.decode import RejectedImageError
from sonoray_jobs.cluster.failures import find_failure


def caught(function, *arguments):
    with pytest.raises(Exception) as information:  # noqa: PT011 - whatever it is
        function(*arguments)
    return information.value


def function_of(module, source):
    """Define `raiser` as if it stood in `module`."""
    namespace = {"__name__": module}
    exec(compile(source, f"{module}.py", "exec"), namespace)
    return namespace["raiser"]


def fail(error):
    raise error


@pytest.mark.parametrize("kind", [ConfigError, DataError, JobFailedError, SonoError])
def test_a_sono_error_gives_its_line_and_exit_code(kind):
    failure = find_failure(caught(fail, kind("K is 0;\n  use 1 or more")))
    assert failure.message == "K is 0; use 1 or more"
    assert failure.exit_code == kind.exit_code


def test_a_value_error_raised_by_the_model_is_the_users():
    raiser = function_of("llava_ultra.connector.pick", "def raiser(): raise ValueError('K is 0')")
    failure = find_failure(caught(raiser))
    assert (failure.message, failure.exit_code) == ("K is 0", 2)


@pytest.mark.parametrize("module", ["torch.nn", "sonoray_jobs.training.train", "llava_ultra_fork"])
def test_a_value_error_raised_elsewhere_is_a_bug(module):
    inner = function_of(module, "def raiser(): raise ValueError('shapes differ')")
    outer = function_of("llava_ultra.model", "def raiser(inner): inner()")
    assert find_failure(caught(outer, inner)) is None


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, TypeError, AssertionError])
def test_anything_else_is_a_bug(kind):
    raiser = function_of("llava_ultra.model", f"def raiser(): raise {kind.__name__}('x')")
    assert find_failure(caught(raiser)) is None


def printed(last, file="/opt/venv/site-packages/llava_ultra/sampling.py"):
    return (
        f'worker died\nTraceback (most recent call last):\n  File "{file}", line 7, in f\n{last}\n'
    )


HANDLING = "\nDuring handling of the above exception, another exception occurred:\n\n"


def raised_in_ray(text):
    return caught(function_of("ray.serve.api", "def raiser(text): raise RuntimeError(text)"), text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (printed("sonoray.errors.DataError: no study; ingest one"), "no study; ingest one"),
        (printed("sonoray.images.decode.RejectedImageError: bomb: too big"), "bomb: too big"),
        (printed("ValueError: K is 0; use 1"), "K is 0; use 1"),
        (printed("  sonoray.errors.ConfigError: no key"), "no key"),
    ],
)
def test_what_ray_only_prints_is_found(text, message):
    failure = find_failure(raised_in_ray(text))
    assert (failure.message, failure.exit_code) == (message, 2)


@pytest.mark.parametrize(
    "text",
    [
        printed("ValueError: shapes differ", file="/opt/venv/site-packages/torch/nn/linear.py"),
        printed("sonoray.study.contract.NoSuchError: gone"),
        printed("sonoray.config.model.Config: not an error"),
        printed("sonoray.nothing_of_this_name.DataError: gone"),
        printed("sonoray.errors.DataError: x") + HANDLING + printed("KeyError: 'y'"),
        "ValueError: nothing says where",
        "a worker died",
    ],
)
def test_what_ray_prints_of_a_bug_stays_a_bug(text):
    assert find_failure(raised_in_ray(text)) is None


def test_the_exit_code_of_a_printed_error_is_that_of_its_class():
    failure = find_failure(raised_in_ray(printed("sonoray.errors.JobFailedError: it died")))
    assert failure.exit_code == JobFailedError.exit_code == 1


def test_the_same_text_outside_of_ray_proves_nothing():
    assert find_failure(caught(fail, RuntimeError(printed("sonoray.errors.DataError: x")))) is None


def test_subclasses_outside_the_error_module_count():
    assert issubclass(RejectedImageError, DataError)


def test_a_worker_that_ray_ended_for_memory_is_one_line():
    """The words of `ray.train.ControllerError` (2.60), shortened."""
    text = (
        "Training failed due to controller error after trying 4 times:\n"
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\n"
        "Memory on the node (IP: 10.0.0.1, ID: 0a) where the task was running was 22.4GB / 23.5GB"
    )
    raiser = function_of("ray.train", "def raiser(text): raise RuntimeError(text)")
    failure = find_failure(caught(raiser, text))
    assert failure.exit_code == 1
    assert "ran low on memory" in failure.message
    assert "train.micro_studies" in failure.message
    assert find_failure(caught(raiser, "another failure of Ray")) is None
