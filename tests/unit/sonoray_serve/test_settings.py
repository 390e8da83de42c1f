"""What can be configured, and that the service fails closed."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import load_road
from sonoray_serve.app import build
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.settings import (
    AppArgs,
    DicomReading,
    HostedModel,
    Limits,
    Replicas,
    Roster,
    ServeConfig,
    ShadowConfig,
)

DIGEST = digest_key("some-key-0123456789")


def test_no_key_is_refused_unless_said_to_be_local():
    with pytest.raises(ConfigError, match=r"no API key.*--api-key-file"):
        validate_config(AppArgs, {"model": "m"}, "serve")
    assert AppArgs(model="m", insecure_local=True).api_key_digests == ()
    assert AppArgs(model="m", api_key_digests=(DIGEST,)).insecure_local is False


def test_a_key_in_place_of_a_digest_is_refused_and_not_shown():
    secret = "this-is-the-key-itself"
    with pytest.raises(ValidationError) as refused:
        AppArgs(model="m", api_key_digests=(secret,))
    message = str(refused.value.errors(include_input=False, include_context=False))
    assert "give digests" in message
    assert secret not in message


def test_unknown_key_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown key 'modle'.*model"):
        validate_config(AppArgs, {"modle": "m", "insecure_local": True}, "serve")
    values = {"model": "m", "insecure_local": True, "config": {"limits": {"max_image": 1}}}
    with pytest.raises(ConfigError, match=r"unknown key 'config.limits.max_image'"):
        validate_config(AppArgs, values, "serve")


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (Limits, {"default_tokens": 9, "max_tokens": 8}, "default_tokens = 9 exceeds"),
        (Replicas, {"num_cpus": 1, "max_ongoing": 1, "max_queued": 0}, "max_queued = 0"),
        (
            Replicas,
            {"num_cpus": 1, "max_ongoing": 1, "max_queued": 1, "min_replicas": 2},
            "max_replicas = 1 is below",
        ),
        (ServeConfig, {"limits": {"max_requests": 64}}, "ingress.max_ongoing = 64 must exceed"),
        (Limits, {"deadline_s": 0}, "deadline_s = 0"),
        (Limits, {"max_messages": 1_025}, "max_messages = 1025"),
        (Limits, {"max_images": 1_024}, "max_images = 1024"),
    ],
)
def test_values_that_cannot_work_are_refused(model: type, values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        validate_config(model, values, "test")


def test_defaults_fit_a_small_laptop():
    config = ServeConfig()
    assert config.ingress.num_cpus + config.vision.num_cpus + config.engine.num_cpus <= 1


def test_settings_import_without_heavy_libraries():
    heavy = "{'ray', 'torch', 'fastapi', 'mlflow', 'transformers'}"
    code = f"import sys, sonoray_serve.app; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_build_takes_the_arguments_of_a_serve_yaml():
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    application = call(build, {"model": "/m", "api_key_digests": [DIGEST]})
    deployments = {application._bound_deployment.name}
    for argument in application._bound_deployment.init_args[1:]:
        deployments.add(argument._bound_deployment.name)
    assert deployments == {"ingress", "vision", "engine"}
    with pytest.raises(ValidationError, match="Extra inputs"):
        call(build, {"model": "/m", "api_key_digests": [DIGEST], "greting": 1})


def test_build_takes_them_from_a_file_too(tmp_path):
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    path = tmp_path / "service.toml"
    path.write_text('model = "/m"\napi_key_digests_folder = "/keys"\n')
    application = call(build, {"file": str(path)})
    args = application._bound_deployment.init_args[0]
    assert (args.model, args.api_key_digests_folder) == ("/m", "/keys")


def test_every_queue_of_the_application_is_bounded_and_answers_429():
    application = build(AppArgs(model="/m", insecure_local=True))
    ingress = application._bound_deployment
    vision, engine = (argument._bound_deployment for argument in ingress.init_args[1:])
    for deployment in (ingress, vision, engine):
        assert deployment.max_queued_requests > 0
        assert deployment.backpressure_config.status_code == 429
        assert deployment.backpressure_config.retry_after_s == 2


def test_the_settings_may_lie_in_a_file_and_what_stands_beside_it_counts_more(tmp_path):
    path = tmp_path / "service.toml"
    path.write_text(
        'model = "models:/m/1"\napi_key_digests_folder = "/keys"\n[config.limits]\nmax_images = 3\n'
    )
    args = AppArgs.model_validate({"file": str(path)})
    assert (args.model, args.api_key_digests_folder) == ("models:/m/1", "/keys")
    assert args.config.limits.max_images == 3
    assert AppArgs.model_validate({"file": str(path), "model": "/m"}).model == "/m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read \(No such file"),
        ("model = ", "is no TOML"),
        ('modle = "m"', "unknown key 'modle'"),
        ('model = "m"', "no API key"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "service.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        validate_config(AppArgs, {"file": str(path)}, "serve")


def test_another_roster_is_the_same_version_of_every_deployment():
    """Else Ray Serve would replace the replicas that are to take it."""
    args = AppArgs(model="/m", insecure_local=True, config=ServeConfig(max_models=2))
    roster = Roster(models=(HostedModel(model="/n", digest=DIGEST),), names={"n": DIGEST})

    def versions(changed: AppArgs) -> list[str | None]:
        ingress = build(changed)._bound_deployment
        others = [argument._bound_deployment for argument in ingress.init_args[1:]]
        return [deployment.version for deployment in (ingress, *others)]

    assert versions(args.model_copy(update={"roster": roster})) == versions(args)
    assert set(versions(args.model_copy(update={"model": "/o"}))).isdisjoint(versions(args))


def test_more_models_than_there_is_room_for_are_refused():
    models = tuple(HostedModel(model="/n", digest=digit * 64) for digit in "ab")
    with pytest.raises(ValidationError, match="max_models = 1"):
        AppArgs(model="/m", insecure_local=True, roster=Roster(models=models))


def test_a_candidate_needs_room_for_a_second_model():
    shadow = ShadowConfig(name="next")
    with pytest.raises(ValidationError, match=r"raise serve\.max_models"):
        AppArgs(model="m", insecure_local=True, config=ServeConfig(shadow=shadow))
    config = ServeConfig(shadow=shadow, max_models=2)
    assert AppArgs(model="m", insecure_local=True, config=config).config.shadow.share == 1.0


def test_a_password_in_the_database_s_url_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="PGPASSWORD") as refused:
        validate_config(ServeConfig, {"feedback": "postgresql://sonoray:secret-word@db/x"}, "serve")
    assert "set PGPASSWORD" in str(refused.value)
    assert "secret-word" not in str(refused.value)
    with pytest.raises(ConfigError, match="PGPASSWORD") as refused:
        load_road("tiny", ["serve.feedback=postgresql://sonoray:secret-word@db/x"])
    assert "postgresql://sonoray:***@db/x" in str(refused.value)
    assert "secret-word" not in str(refused.value)
    assert ServeConfig(feedback="postgresql://sonoray@db/x").feedback.endswith("@db/x")


def test_dicom_objects_are_read_as_the_road_says():
    road = load_road("tiny", ["dicom.frames.max_frames=3", "ingest.burned_in_text=keep"])
    reading = DicomReading.of(road.dicom, road.ingest)
    assert reading.dicom.frames.max_frames == 3
    assert reading.deidentify.burned_in_text == "keep"
