"""The application on a Ray: started where no Ray Serve runs, taken down from a Ray that goes on.

There is one Ray Serve on a cluster, with one host and one port. So a cluster on which it runs is
refused before anything is started, and what was started on a shared cluster is removed at the end.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sonoray.cluster.session import require_cpus
from sonoray.errors import ServingError
from sonoray_jobs.service.listening import reason
from sonoray_serve.app import APP_NAME, LOGGING, AppArgs, build

logger = logging.getLogger(__name__)

DRAIN_PERIOD_S = 0.2
DRAIN_ANSWER_S = 10.0
"""For all ingress replicas to say how many requests they have in work."""

SHUTDOWN_TIMEOUT_S = 30.0
"""For Ray Serve to end on a Ray that goes on; as Serve's own."""


@contextmanager
def deployed(args: AppArgs, host: str, port: int, *, shared_ray: bool) -> Iterator[None]:
    """Run the application on the initialised Ray, and leave a shared Ray as it was found.

    A private Ray ends with its session and takes the service along, which saves 7 s.

    Raises:
        ClusterError: the cluster has too few free CPUs or GPUs.
        ServingError: Ray Serve already runs there, or the application does not.
    """
    from ray import serve

    _require_no_serve()
    if not logger.isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets INFO
    sizes = (args.config.ingress, args.config.vision, args.config.engine)
    num_cpus = sum(size.num_cpus * size.min_replicas for size in sizes)
    num_gpus = sum(size.num_gpus * size.min_replicas for size in sizes)
    require_cpus(math.ceil(num_cpus), "serving", num_gpus=num_gpus)
    http = {
        "host": host,
        "port": port,
        # only a backstop: the ingress answers for the deadline itself
        "request_timeout_s": 2 * args.config.limits.deadline_s,
    }
    try:
        try:
            serve.start(proxy_location="HeadOnly", http_options=http, logging_config=LOGGING)
            target = serve.RunTarget(build(args), name=APP_NAME, logging_config=LOGGING)
            # Ray Serve's own wait has no end where a replica finds no place
            serve.run_many(
                [target],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
            _wait_running(args.config.start_timeout_s)
        except (RuntimeError, TimeoutError) as error:
            raise ServingError(
                f"the service did not come up ({reason(error)}); "
                "see why with: sonoray --verbose serve"
            ) from error
        yield
    finally:
        if shared_ray:
            _take_down()


def hand_over(args: AppArgs) -> None:
    """Give the running application a new roster, and wait until all replicas have taken it.

    Raises:
        ServingError: they do not.
    """
    from ray import serve

    try:
        target = serve.RunTarget(build(args), name=APP_NAME, logging_config=LOGGING)
        serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        _wait_running(args.config.start_timeout_s)
    except (RuntimeError, TimeoutError) as error:
        raise ServingError(f"the service did not take its models ({reason(error)})") from error


def drain(timeout_s: float) -> int:
    """Let no further request in, and wait until those in work are answered.

    Args:
        timeout_s: the longest wait.

    Returns:
        Requests that are still in work.
    """
    from ray import serve

    ingress = serve.get_app_handle(APP_NAME)
    deadline = time.monotonic() + timeout_s
    while True:
        answers = ingress.broadcast("close").results(timeout_s=DRAIN_ANSWER_S)
        num_requests = sum(map(int, answers))
        if not num_requests or time.monotonic() > deadline:
            time.sleep(DRAIN_PERIOD_S)  # the proxy sends the last bytes
            return num_requests
        time.sleep(DRAIN_PERIOD_S)


def _require_no_serve() -> None:
    """Refuse a cluster on which Ray Serve runs.

    There is one Ray Serve on a cluster. It would keep its own host and port, which may be open to
    others where this service asks for no keys, and an application of the same name would be
    replaced.

    Raises:
        ServingError: it runs, with or without applications.
    """
    import ray

    if _find_controller() is None:
        return
    raise ServingError(
        f"Ray Serve already runs on the Ray cluster at {ray.get_runtime_context().gcs_address!r}, "
        "with a port and applications of its own; leave out --address and RAY_ADDRESS for a "
        "private Ray, or end it and all that it serves with: "
        "serve shutdown --address http://HOST:8265"
    )


def _find_controller() -> Any:  # noqa: ANN401 - an actor handle
    """The controller of the cluster's Ray Serve; None where there is none."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def _wait_running(timeout_s: float) -> None:
    """Wait until every replica of the application is up.

    Raises:
        RuntimeError: one cannot start.
        TimeoutError: one found no place on the cluster, or is still loading.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + timeout_s
    while True:
        application = serve.status().applications.get(APP_NAME)
        if application is None:
            raise RuntimeError("somebody deleted it while it started")
        if application.status is ApplicationStatus.RUNNING:
            return
        if application.status is ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(application.message)
        if time.monotonic() > deadline:
            missing = [
                name
                for name, deployment in sorted(application.deployments.items())
                if deployment.status != "HEALTHY"
            ]
            raise TimeoutError(
                f"no place or not loaded after serve.start_timeout_s = {timeout_s:g}: "
                + ", ".join(missing)
            )
        time.sleep(0.5)


def _take_down() -> None:
    """End the application, and with it Ray Serve unless others have deployed to it meanwhile.

    The public `serve.shutdown` waits in a call to the controller that ends when the controller is
    killed, of which Ray then says that the call failed and is retried for ever. So the controller
    is asked without waiting and watched until it is gone; the call after that forgets its handle.
    """
    import ray
    from ray import serve

    if serve.status().applications.keys() - {APP_NAME}:
        serve.delete(APP_NAME)
        return
    controller = _find_controller()
    if controller is not None:
        ray.get(controller.graceful_shutdown.remote(wait=False))
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        while _find_controller() is not None and time.monotonic() < deadline:
            time.sleep(0.1)
    serve.shutdown()  # type: ignore[no-untyped-call]
