"""How Ray Serve's ways of failing become the API's."""

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError, RequestCancelledError

from sonoray_serve.http.ingress import translated
from sonoray_serve.problems import ApiError, InternalError, Problem


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (BackPressureError(3, 2), Problem.BUSY),
        (RayActorError(), Problem.UNAVAILABLE),
        (ReplicaUnavailableError("engine-1"), Problem.UNAVAILABLE),
        (RequestCancelledError("id"), Problem.UNAVAILABLE),
        (RayTaskError("generate", "canary", RuntimeError("canary")), Problem.INTERNAL),
        (
            RayTaskError("generate", "canary", InternalError("x")).as_instanceof_cause(),
            Problem.INTERNAL,
        ),
    ],
)
def test_ray_serves_failures_become_the_apis(failure: Exception, problem: Problem):
    with pytest.raises(ApiError) as translation, translated():
        raise failure
    assert translation.value.problem is problem
