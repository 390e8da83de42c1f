"""The Ray Serve application: ingress -> vision -> ingress -> engine -> ingress.

A study goes to vision as arrays and comes back as tokens, goes on to the engine with the
conversation, and the answer comes back piece by piece. `build` is the import path of a Serve YAML
(`sonoray_serve.app:build`) and what `sonoray serve` runs; it only describes the deployments, so
Ray is imported inside it.

Every queue is bounded: Ray Serve's own default is unbounded. A full vision or engine queue is
answered with 429 by the ingress; a full ingress refuses before reading a body, and only far above
that does Ray Serve's proxy refuse, with the same status but a plain text. The proxy also answers
`/-/healthz` and `/-/routes` itself, without a key; they tell that a service is there, no more.
"""

from typing import TYPE_CHECKING, Any

from sonoray.config.canonical import content_hash
from sonoray_serve.schedule.autoscale import BUSY, replicas_for_work
from sonoray_serve.settings import APP_NAME, AppArgs, Replicas, Roster, ServeConfig

if TYPE_CHECKING:
    from ray.serve import Application, Deployment

    from sonoray_serve.replicas.loading import ModelSource

__all__ = ["APP_NAME", "AppArgs", "ServeConfig", "build"]

MAX_START_TRIES = 3
"""A replica that cannot load its model will not be able to at Ray's default of 20 tries either."""

LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""Ray Serve's logs: no line per request, since a line holds the request id that a client may set
to anything. Counts and latencies are in Ray Serve's metrics."""


def build(args: AppArgs) -> "Application":
    """Describe the application.

    Args:
        args: model, keys, configuration; refused by `AppArgs` itself where there is no key.
    """
    from ray import serve

    from sonoray_serve.http.ingress import Ingress
    from sonoray_serve.replicas.engine import Engine
    from sonoray_serve.replicas.vision import Vision

    config = args.config
    # the roster comes as user_config: replicas that are up take it without a restart
    first = args.model_copy(update={"roster": Roster()})
    version = content_hash(first.model_dump(mode="json"))
    roster = args.roster.model_dump(mode="json")

    def deployment(name: str, replicas: Replicas, of: type) -> "Deployment":
        made = serve.deployment(**_options(name, replicas, config, roster))(of)
        # without one Serve draws a new version each time, and replaces all replicas for it; its
        # public way to the same is a configuration file, which a private Ray has no server for
        versioned: Deployment = made.options(version=version, _internal=True)
        return versioned

    vision = deployment("vision", config.vision, Vision).bind(
        _source(args, config.vision),
        num_threads=config.vision.max_ongoing,
        weights_check_period_s=config.weights_check_period_s,
        image_bytes=config.encoded_image_bytes,
    )
    engine = deployment("engine", config.engine, Engine).bind(
        _source(args, config.engine), config.batching, max_models=config.max_models
    )
    ingress = deployment("ingress", config.ingress, serve.ingress()(Ingress))
    return ingress.bind(first, vision, engine)


def _options(
    name: str, replicas: Replicas, config: ServeConfig, roster: dict[str, Any]
) -> dict[str, Any]:
    """The deployment options of one of the three."""
    from ray.serve.config import AutoscalingConfig, BackpressureConfig

    return {
        "name": name,
        "user_config": roster,
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            upscale_delay_s=replicas.upscale_delay_s,
            downscale_delay_s=replicas.downscale_delay_s,
            target_ongoing_requests=BUSY * replicas.max_ongoing,
            **_policy(name),
        ),
        "max_ongoing_requests": replicas.max_ongoing,
        "max_queued_requests": replicas.max_queued,
        "backpressure_config": BackpressureConfig(
            status_code=429, retry_after_s=config.limits.retry_after_s
        ),
        "health_check_period_s": config.health_check_period_s,
        "graceful_shutdown_timeout_s": config.limits.deadline_s,
        "max_constructor_retry_count": MAX_START_TRIES,
        "logging_config": LOGGING,
    }


def _policy(name: str) -> dict[str, Any]:
    """What a deployment scales by; the ingress by its requests, which are much alike."""
    from ray.serve.config import AutoscalingPolicy

    if name == "ingress":
        return {}
    policy = AutoscalingPolicy(policy_function=replicas_for_work)  # type: ignore[no-untyped-call]
    return {"policy": policy}


def _source(args: AppArgs, replicas: Replicas) -> "ModelSource":
    from sonoray_serve.replicas.loading import ModelSource

    return ModelSource(
        model=args.model,
        digest=args.model_digest,
        workspace=args.workspace,
        device="cuda" if replicas.num_gpus > 0 else "cpu",
        precision=args.config.precision,
    )
