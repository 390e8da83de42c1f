"""Serve: check an exported model, start the service, keep it up.

The order is what makes a mistake cheap: keys and address, model and its digests, the port, and only
then Ray. Nothing is started that would have to be taken down again. The digests are checked here by
loading the model once on the CPU, so this process needs as much memory as one replica for a moment.

`serving` is the same as a context manager, for the demo and the tests.
"""

import dataclasses
import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.cluster.session import ray_session, require_cpus
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError, ServingError
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_serve.app import APP_NAME, LOGGING, AppArgs, ServeConfig, build
from sonoray_serve.http.auth import digest_key, is_loopback, read_api_keys

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 60.0
"""From the running application to the first answer on the port; a private Ray needs about 1 s."""

SHUTDOWN_TIMEOUT_S = 30.0
"""For Ray Serve to end on a Ray that goes on; as Serve's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service that answers."""

    url: str
    """Base URL for OpenAI clients, ending in `/v1`."""
    model: str
    """The name that requests use."""
    digest: str
    """Sha256 (hex) of the model's manifest."""
    keys_required: bool

    def lines(self) -> list[str]:
        """What a person reads once it has stopped."""
        return [f"{self.url} has stopped"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return dataclasses.asdict(self)


def new_api_key() -> str:
    """A random key of 256 bits, as the demo uses."""
    return secrets.token_urlsafe(32)


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    insecure_local: bool = False,
    address: str | None = None,
) -> Service:
    """Serve a model until Ctrl-C or SIGTERM; where it listens is logged once it answers.

    Args:
        workspace: holds MLflow's default store and downloaded models.
        road: its section `serve` has the limits and sizes.
        model: a folder, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        host: address to listen on.
        port: port to listen on.
        api_key_file: keys, one per line; readable by its owner only.
        insecure_local: ask for no key; refused unless `host` is a loopback address.
        address: Ray cluster to run on; a private one otherwise.

    Returns:
        The service that was up.

    Raises:
        ConfigError: no keys, a bad key file, or no keys on an address that others reach.
        CheckpointError: the model is missing, damaged or another one.
        ClusterError: the cluster is too small or too busy.
        ServingError: the port is taken, Ray Serve already runs on the cluster, or the service does
            not come up.
    """
    api_keys = read_api_keys(api_key_file) if api_key_file is not None else ()
    with serving(
        workspace=workspace,
        config=road.serve,
        model=model,
        host=host,
        port=port,
        api_keys=api_keys,
        insecure_local=insecure_local,
        address=address,
    ) as service:
        keys = "with an API key" if service.keys_required else "WITHOUT keys"
        logger.info("serving %s at %s, %s; Ctrl-C stops", service.model, service.url, keys)
        # not before: Ray puts handlers of its own in place when it starts
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            logger.info("stopping")
        finally:
            signal.signal(signal.SIGTERM, previous)
    return service


@contextmanager
def serving(
    *,
    workspace: Workspace,
    model: str,
    config: ServeConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_keys: Sequence[str] = (),
    insecure_local: bool = False,
    address: str | None = None,
) -> Iterator[Service]:
    """Serve a model for the length of the block; arguments and errors as for `run`."""
    if insecure_local and not is_loopback(host):
        raise ConfigError(
            f"--insecure-local with host {host!r}: others could reach a service without keys; "
            "use --host 127.0.0.1, or give --api-key-file"
        )
    args = _checked_args(
        workspace=workspace,
        model=model,
        config=config or ServeConfig(),
        api_keys=api_keys,
        insecure_local=insecure_local,
    )
    check_port(host, port)
    service = Service(
        url=f"http://{_reachable(host)}:{port}/v1",
        model=args.model_name,
        digest=args.model_digest,
        keys_required=not insecure_local,
    )
    shared_ray = _shares_ray(address)
    with ray_session(address), _deployed(args, host, port, shared_ray=shared_ray):
        _wait_healthy(f"http://{_reachable(host)}:{port}/healthz")
        yield service


def check_port(host: str, port: int) -> None:
    """Make sure that the port can be listened on.

    Raises:
        ServingError: it is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"cannot listen on port {port} of {host!r} ({_reason(error)}); stop what uses it or "
            "choose another with --port"
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _checked_args(
    *,
    workspace: Workspace,
    model: str,
    config: ServeConfig,
    api_keys: Sequence[str],
    insecure_local: bool,
) -> AppArgs:
    """Resolve and check the model; the arguments pin the very one that was checked."""
    from sonoray_serve.replicas.loading import ModelSource, load_model, resolve_folder

    values = {
        "model": model,
        "workspace": str(workspace.root),
        "api_key_digests": tuple(map(digest_key, api_keys)),
        "insecure_local": insecure_local,
        "config": config,
    }
    validate_config(AppArgs, values, "serve")  # keys first: the model takes seconds
    folder = resolve_folder(model, workspace.root)
    logger.info("starting; loading %s", model)
    source = ModelSource(model=str(folder), digest="", workspace="", device="cpu")
    loaded = load_model(source)
    pinned = {
        "model": str(folder),
        "model_name": loaded.assistant.name,
        "model_digest": loaded.digest,
    }
    return validate_config(AppArgs, {**values, **pinned}, "serve")


@contextmanager
def _deployed(args: AppArgs, host: str, port: int, *, shared_ray: bool) -> Iterator[None]:
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
                f"the service did not come up ({_reason(error)}); "
                "see why with: sonoray --verbose serve"
            ) from error
        yield
    finally:
        if shared_ray:
            _take_down()


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


def _shares_ray(address: str | None) -> bool:
    """Whether `ray_session` will use a Ray that was there before."""
    import ray

    return bool(address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())


def _wait_healthy(url: str) -> None:
    """Wait until the service answers.

    Raises:
        ServingError: it does not.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + HEALTH_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError):
            direct.open(url, timeout=2.0).close()
            return
        time.sleep(0.2)
    raise ServingError(
        f"nothing healthy answers at {url} after {HEALTH_TIMEOUT_S:g} s; on a cluster run this on "
        "the head node, where Ray Serve listens, else see why with: sonoray --verbose serve"
    )


def _reachable(host: str) -> str:
    """The host part of a URL by which this machine reaches a listening address."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).strip().splitlines()[0]
