"""Serve: check an exported model, start the service, keep it up.

The order is what makes a mistake cheap: keys and address, model and its digests, the port, and only
then Ray. Nothing is started that would have to be taken down again. The digests are checked here by
loading the model once on the CPU, so this process needs as much memory as one replica for a moment.

`serving` is the same as a context manager, for the demo and the tests.
"""

import dataclasses
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sonoray.cluster.session import ray_session
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.service.deployment import deployed
from sonoray_jobs.service.listening import check_port, reachable, wait_healthy
from sonoray_serve.app import AppArgs, ServeConfig
from sonoray_serve.http.auth import digest_key, is_loopback, read_api_keys

logger = logging.getLogger(__name__)


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
        ConfigError: no keys, a bad key file, no keys on an address that others reach, or a
            precision that a node lacks.
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
        url=f"http://{reachable(host)}:{port}/v1",
        model=args.model_name,
        digest=args.model_digest,
        keys_required=not insecure_local,
    )
    shared_ray = _shares_ray(address)
    with ray_session(address):
        _check_devices(args)
        with deployed(args, host, port, shared_ray=shared_ray):
            wait_healthy(f"http://{reachable(host)}:{port}/healthz")
            yield service


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
    # in float32, which every CPU has: what it is served in is for the nodes to have
    source = ModelSource(
        model=str(folder), digest="", workspace="", device="cpu", precision="float32"
    )
    assistant, digest = load_model(source)
    pinned = {
        "model": str(folder),
        "model_name": assistant.name,
        "model_digest": digest,
    }
    return validate_config(AppArgs, {**values, **pinned}, "serve")


def _check_devices(args: AppArgs) -> None:
    """Refuse nodes that lack the precision of the model, before a replica tries.

    Raises:
        ConfigError: there is one.
    """
    from llava_ultra.export.manifest import PrecisePart, precision_of, read_artifact_manifest
    from llava_ultra.parameters.precision_names import answer_precision

    manifest = read_artifact_manifest(Path(args.model))
    for part in get_args(PrecisePart):  # each replica loads all of them
        asked = answer_precision(args.config.precision, precision_of(manifest, part))
        for replicas in (args.config.vision, args.config.engine):
            require_precisions({"serve.precision": asked}, uses_gpus=replicas.num_gpus > 0)


def _shares_ray(address: str | None) -> bool:
    """Whether `ray_session` will use a Ray that was there before."""
    import ray

    return bool(address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())
