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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_ultra.student.student_card import STUDENT, StudentCard
from sonoray.cluster.session import ray_session
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError, DataError
from sonoray.ingest.dicomweb.server_url import read_address
from sonoray.records.database import read_url
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.service.deployment import deployed, drain, hand_over
from sonoray_jobs.service.front import front
from sonoray_jobs.service.listening import check_port, reachable, reason, wait_healthy
from sonoray_jobs.service.roster import LOOK_PERIOD_S, RosterKeeper, read_adapters
from sonoray_serve.app import AppArgs, ServeConfig
from sonoray_serve.keys.auth import digest_key, is_loopback, read_key_file
from sonoray_serve.settings import DicomReading, KeyTerms, Replicas

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
    keeper: RosterKeeper | None = None
    """Lets models come and go; None where the service has one model."""

    def lines(self) -> list[str]:
        """What a person reads once it has stopped."""
        return [f"{self.url} has stopped"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "keeper"
        }


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
    adapters: Path | None = None,
    address: str | None = None,
) -> Service:
    """Serve a model until Ctrl-C or SIGTERM; where it listens is logged once it answers.

    Args:
        workspace: holds MLflow's default store and downloaded models.
        road: its section `serve` has the limits and sizes; `dicom` and `ingest` say how
            DICOM objects become pictures.
        model: a folder, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        host: address to listen on.
        port: port to listen on.
        api_key_file: keys, one per line; readable by its owner only.
        insecure_local: ask for no key; refused unless `host` is a loopback address.
        adapters: file of further models, looked at while the service runs.
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
    api_keys = read_key_file(api_key_file) if api_key_file is not None else {}
    with serving(
        workspace=workspace,
        config=road.serve,
        reading=DicomReading.of(road.dicom, road.ingest),
        model=model,
        host=host,
        port=port,
        api_keys=tuple(api_keys),
        key_terms=api_keys,
        insecure_local=insecure_local,
        adapters=adapters,
        address=address,
    ) as service:
        keys = "with an API key" if service.keys_required else "WITHOUT keys"
        logger.info("serving %s at %s, %s; Ctrl-C stops", service.model, service.url, keys)
        # not before: Ray puts handlers of its own in place when it starts
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while True:
                time.sleep(LOOK_PERIOD_S)
                if service.keeper is not None:
                    service.keeper.look()
        except KeyboardInterrupt:
            logger.info("stopping: what is in work is finished first; Ctrl-C again cuts it off")
            _finish(road.serve.limits.deadline_s)
        finally:
            signal.signal(signal.SIGTERM, previous)
    return service


def _finish(timeout_s: float) -> None:
    """Drain the service; a second signal or a service that does not answer ends the wait."""
    try:
        if left := drain(timeout_s):
            logger.warning("%d requests are cut off after %g s", left, timeout_s)
    except KeyboardInterrupt:
        logger.info("stopping at once")
    except Exception as error:
        logger.warning("requests in work are cut off: %s", reason(error))


@contextmanager
def serving(
    *,
    workspace: Workspace,
    model: str,
    config: ServeConfig | None = None,
    reading: DicomReading | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_keys: Sequence[str] = (),
    key_terms: Mapping[str, KeyTerms] | None = None,
    insecure_local: bool = False,
    adapters: Path | None = None,
    address: str | None = None,
) -> Iterator[Service]:
    """Serve a model for the length of the block; arguments and errors as for `run`.

    `key_terms` are by key, for those that have some.

    `Service.keeper` of the service has been looked at once; who holds the block looks again.
    """
    if adapters is not None:
        read_adapters(adapters)
        if config is None or config.max_models == 1:
            raise ConfigError(
                f"--adapters {adapters} and serve.max_models = 1; set serve.max_models to the "
                "models that may be there at once"
            )
    if insecure_local and not is_loopback(host):
        raise ConfigError(
            f"--insecure-local with host {host!r}: others could reach a service without keys; "
            "use --host 127.0.0.1, or give --api-key-file"
        )
    args = _checked_args(
        workspace=workspace,
        model=model,
        config=config or ServeConfig(),
        reading=reading or DicomReading(),
        api_keys=api_keys,
        key_terms=key_terms or {},
        insecure_local=insecure_local,
    )
    check_port(host, port)
    service = Service(
        url=f"http://{reachable(host)}:{port}/v1",
        model=args.model_name,
        digest=args.model_digest,
        keys_required=not insecure_local,
        keeper=None
        if args.config.max_models == 1
        else RosterKeeper(
            args, workspace=workspace, model=model, adapters=adapters, deploy=hand_over
        ),
    )
    shared_ray = _shares_ray(address)
    with (
        front(host, haproxy=args.config.haproxy, is_private=not shared_ray) as environment,
        ray_session(address, environment=environment),
    ):
        _check_devices(args)
        with deployed(args, host, port, shared_ray=shared_ray):
            wait_healthy(f"http://{reachable(host)}:{port}/healthz")
            if service.keeper is not None:
                service.keeper.look()
            yield service


def _checked_args(
    *,
    workspace: Workspace,
    model: str,
    config: ServeConfig,
    reading: DicomReading,
    api_keys: Sequence[str],
    key_terms: Mapping[str, KeyTerms],
    insecure_local: bool,
) -> AppArgs:
    """Resolve and check the model; the arguments pin the very one that was checked."""
    from sonoray_serve.replicas.loading import ModelSource, load_model, resolve_folder

    values = {
        "model": model,
        "workspace": str(workspace.root),
        "api_key_digests": tuple(map(digest_key, api_keys)),
        "key_terms": {
            digest_key(key): terms for key, terms in key_terms.items() if terms != KeyTerms()
        },
        "insecure_local": insecure_local,
        "config": config,
        "reading": reading,
    }
    validate_config(AppArgs, values, "serve")  # keys first: the model takes seconds
    _check_places(config)
    folder = resolve_folder(model, workspace.root)
    logger.info("starting; loading %s", model)
    # in float32, which every CPU has: what it is served in is for the nodes to have
    source = ModelSource(
        model=str(folder), digest="", workspace="", device="cpu", precision="float32"
    )
    assistant, digest = load_model(source)
    if config.max_models == 1:
        check_routing(assistant.manifest, config.student_budget)
    pinned = {
        "model": str(folder),
        "model_name": assistant.name,
        "model_digest": digest,
    }
    return validate_config(AppArgs, {**values, **pinned}, "serve")


def check_routing(manifest: Mapping[str, Any], budget: float | None) -> None:
    """Refuse a budget for a student that is not there, or of which nobody knows how sure it is.

    Raises:
        ConfigError: so it is.
    """
    if budget is None:
        return
    told = manifest.get(STUDENT)
    if told is None:
        raise ConfigError(
            f"serve.student_budget = {budget:g}, and the model was exported without a student; run "
            "sonoray distil and sonoray export --student, or leave it out"
        )
    card = StudentCard.model_validate(told)
    if not card.routes:
        raise ConfigError(
            f"serve.student_budget = {budget:g}, and the student of {card.teacher!r} had too few "
            "patients to find out how sure it must be; leave it out and ask NAME:student"
        )
    least = card.least_confidence(budget)
    if least is None:
        lost = min(route.lost for route in card.routes)
        logger.warning(
            "serve.student_budget = %g: the student never answers for the model, since the least "
            "that would be lost is %.4f",
            budget,
            lost,
        )
    else:
        logger.info("the student answers for the model where it is sure to %.3f or more", least)


def _check_places(config: ServeConfig) -> None:
    """Refuse addresses that a replica could do nothing with.

    Raises:
        ConfigError: one is none. Whether anybody answers there is asked when it is needed.
    """
    try:
        if config.dicomweb:
            read_address(config.dicomweb)
    except ConfigError as error:
        raise ConfigError(f"serve.dicomweb = {config.dicomweb!r}: {error}") from None
    try:
        read_url(config.feedback)
    except DataError as error:
        raise ConfigError(f"serve.feedback: {error}") from None


def _check_devices(args: AppArgs) -> None:
    """Refuse nodes that lack the precision of the model, before a replica tries.

    Raises:
        ConfigError: there is one.
    """
    from llava_ultra.export.manifest import read_artifact_manifest

    for asked, uses_gpus in needed_precisions(args, read_artifact_manifest(Path(args.model))):
        require_precisions({"serve.precision": asked}, uses_gpus=uses_gpus)


def needed_precisions(args: AppArgs, manifest: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """What each deployment computes in, and whether on GPUs.

    Vision computes in the precisions of towers and model, since the fusion is a part of the model;
    the engine has no towers.
    """
    from llava_ultra.export.manifest import PrecisePart, precision_of
    from llava_ultra.parameters.precision_names import answer_precision

    vision, engine = args.config.vision, args.config.engine
    parts: tuple[tuple[PrecisePart, Replicas], ...] = (
        ("towers", vision),
        ("model", vision),
        ("model", engine),
    )
    return [
        (
            answer_precision(args.config.precision, precision_of(manifest, part)),
            replicas.num_gpus > 0,
        )
        for part, replicas in parts
    ]


def _shares_ray(address: str | None) -> bool:
    """Whether `ray_session` will use a Ray that was there before."""
    import ray

    return bool(address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())
