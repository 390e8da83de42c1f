"""Recognition over HTTP with a real tiny model, and what is refused."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.testing import tiny_artifact, tiny_config
from sonoray.errors import ConfigError
from sonoray.images.decode import encode_png
from sonoray_jobs.road.config import RecognizeConfig
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.recognition import READING, Calibration, Recognitions
from sonoray_serve.http.routes import create_api
from sonoray_serve.http.testing import random_study, to_data_url
from sonoray_serve.intake.encoder import StudyEncoder
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import AppArgs, Batching, Limits, ServeConfig

KEY = "unit-test-key-0123456789"
CLASSES = [{"name": "良性", "descriptions": ["边界清晰"]}, {"name": "恶性"}, {"name": "甲状腺"}]


def build(folder, calibration: str = "", **limits: float) -> TestClient:
    source = ModelSource(model=str(folder), digest="", workspace="", device="cpu")
    vision = Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)
    engine = Engine(source, Batching(max_answers=1))
    config = ServeConfig(limits=Limits(**limits))
    args = AppArgs(model="unused", api_key_digests=(digest_key(KEY),), config=config)
    (card,) = asyncio.run(engine.cards()).values()
    chat = Chat(vision=vision, engine=engine, models={args.model_name: card}, limits=config.limits)
    common: dict[str, Any] = {
        "encoder": StudyEncoder(vision, limits=config.limits),
        "engine": engine,
        "models": lambda: chat.models,
        "limits": config.limits,
    }
    recognitions = Recognitions(**common, calibration=Calibration.read(calibration, card))
    return TestClient(create_api(chat, args, recognitions))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    objectives = (*tiny_config().objectives, RecognitionObjective())
    tiny_artifact(folder, config=tiny_config().model_copy(update={"objectives": objectives}))
    return folder


@pytest.fixture(scope="module")
def client(folder) -> TestClient:
    return build(folder)


def ask(client: TestClient, key: str = KEY, **changes: Any):
    images = [to_data_url(encode_png(image)) for image in random_study(2)]
    body = {"model": "llava-ultra", "images": images, "classes": CLASSES}
    body = {name: value for name, value in {**body, **changes}.items() if value is not None}
    headers = {"Authorization": f"Bearer {key}"}
    return client.post("/v1/recognize", json=body, headers=headers)


def test_classes_come_with_shares_that_sum_to_one_the_likeliest_first(client):
    answer = ask(client)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    shares = [each["share"] for each in found["classes"]]
    assert {each["name"] for each in found["classes"]} == {"良性", "恶性", "甲状腺"}
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 3
    assert not found["is_calibrated"]
    assert "临床" in found["notice"]
    assert ask(client).json() == found


def test_a_packaged_bank_is_named_in_place_of_classes(client):
    answer = ask(client, classes=None, bank="breast-zh").json()
    assert {each["name"] for each in answer["classes"]} == {"正常乳腺", "良性病变", "恶性病变"}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"classes": CLASSES[:1]}, "classes_not_accepted", "classes"),
        ({"classes": [*CLASSES, CLASSES[0]]}, "classes_not_accepted", "classes"),
        ({"classes": None}, "classes_not_accepted", "classes"),
        ({"bank": "breast-zh"}, "classes_not_accepted", "classes"),
        ({"classes": None, "bank": "/etc/passwd"}, "classes_not_accepted", "bank"),
        ({"prompt": "没有"}, "classes_not_accepted", "classes"),
        ({"images": []}, "no_study_named", "images"),
        ({"images": ["http://x/y.png"]}, "image_url_not_data", "images[0]"),
        ({"threshold": 1}, "unknown_parameter", None),
        ({"model": "other"}, "model_not_found", "model"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(client, changes, code, param):
    answer = ask(client, **changes)
    assert answer.status_code in (400, 404)
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": CLASSES[:1]}, "the bank has 1 class"),
        ({"classes": [*CLASSES, CLASSES[0]]}, "two class names of the bank are equal: '"),
        ({"bank": "breast-zh"}, "give either bank, the name of a packaged one, or classes"),
        ({"classes": None, "bank": "heart"}, "packaged banks are birads-en, birads-zh, breast-en"),
        ({"prompt": "没有"}, "prompt '没有' has no place for the name; write {class}"),
    ],
)
def test_what_is_wrong_with_classes_is_said(client, changes, told):
    message = ask(client, **changes).json()["error"]["message"]
    assert message.startswith("The classes are not accepted: ")
    assert told in message


def test_it_needs_a_key_and_keeps_the_limits(folder, client):
    assert ask(client, key="wrong").status_code == 401
    small = build(folder, max_images=1)
    assert ask(small).json()["error"]["code"] == "too_many_images"


def test_a_model_that_was_not_trained_to_recognise_says_so(model_folder):
    answer = ask(build(model_folder))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "not_trained_to_recognise"


def calibration(tmp_path, **changes: Any) -> str:
    bank = {"classes": CLASSES}
    curve = {"slope": 1.0, "offset": 0.5, "drawn": [[0.9, 0.4], [1.1, 0.6]]}
    values = {
        "training": "",
        "reading": READING,
        "bank": bank,
        "curves": {"良性": curve, "恶性": curve, "甲状腺": None},
    }
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")
    return str(path)


def test_a_calibrated_class_has_a_probability_with_its_interval(folder, tmp_path):
    calibrated = build(folder, calibration(tmp_path))
    found = {each["name"]: each for each in ask(calibrated).json()["classes"]}
    for name in ("良性", "恶性"):
        assert found[name]["low"] < found[name]["probability"] < found[name]["high"]
    assert "probability" not in found["甲状腺"]
    told = [each.get("probability", each["share"]) for each in found.values()]
    assert told == sorted(told, reverse=True)
    others = ask(calibrated, classes=CLASSES[1:]).json()
    assert not others["is_calibrated"]


def test_a_calibration_of_another_training_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="is of training 'phantom-1', the served model of ''"):
        build(folder, calibration(tmp_path, training="phantom-1"))
    with pytest.raises(ConfigError, match=r"is no calibration\.json of sonoray recognize"):
        build(folder, calibration(tmp_path, curves=1))


def test_a_calibration_of_another_way_of_reading_is_refused(folder, tmp_path):
    assert RecognizeConfig().reading == READING
    told = r"is of recognize\.against=embeddings, by which the service does not read"
    with pytest.raises(ConfigError, match=told):
        build(folder, calibration(tmp_path, reading=READING | {"against": "embeddings"}))
