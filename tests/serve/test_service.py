"""The service as clients meet it: OpenAI's client and plain HTTP against real Ray Serve."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pydicom
import pytest

from llava_ultra.export.assistant import Assistant
from sonoray.images.decode import encode_png
from sonoray.records.database import open_database
from sonoray.records.feedback_table import iter_feedback, tables
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_jobs.service.service_client import ask
from sonoray_serve.app import APP_NAME
from sonoray_serve.http.testing import (
    QUESTION,
    chat_body,
    dicom_object,
    random_study,
    to_data_url,
    user_message,
)

pytestmark = pytest.mark.ray

CHAT = "/v1/chat/completions"
CANARY = "patient-canary-7f3a"


def answer_in_process(
    assistant: Assistant, images: Any, messages: list[dict[str, str]], max_tokens: int
) -> tuple[str, Any]:
    prompt = assistant.prepare(assistant.encode(images), messages)
    return "".join(assistant.stream(prompt, max_tokens=max_tokens)), prompt


def processes_of(words: str) -> list[psutil.Process]:
    """Processes of this test's own Ray, by words of their command line."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended, or is not ours
            if words in " ".join(each.cmdline()):
                own = each.environ().get("RAY_ADDRESS") == os.environ["RAY_ADDRESS"]
                found += [each] if own else []
    return found


def engine_load() -> Any:
    from ray import serve

    return serve.get_deployment_handle("engine", APP_NAME).load.remote().result()


def test_answer_is_the_one_the_model_gives_in_process(
    client: openai.OpenAI, assistant: Assistant, running: Any
):
    images = random_study(4)
    completion = client.chat.completions.create(**chat_body(images))
    question = [{"role": "user", "content": QUESTION}]
    expected, prompt = answer_in_process(assistant, images, question, 16)
    assert completion.choices[0].message.content == expected
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == prompt.num_prompt_tokens
    extra = completion.model_extra["sonoray"]
    assert [use["score"] for use in extra["images"]] == pytest.approx(prompt.scores, abs=1e-5)
    assert [use["index"] for use in extra["images"] if use["selected"]] == prompt.selected
    assert extra["notice"] == assistant.notice
    assert extra["digest"] == running.service.digest
    assert extra["model"] == completion.model == running.service.model


def test_stream_joins_to_the_whole_answer(client: openai.OpenAI):
    body = chat_body(random_study(2))
    whole = client.chat.completions.create(**body)
    chunks = list(
        client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].model_extra["sonoray"]["digest"] == whole.model_extra["sonoray"]["digest"]
    used, expected = (
        [image["selected"] for image in answer.model_extra["sonoray"]["images"]]
        for answer in (chunks[-1], whole)
    )
    assert used == expected


def test_follow_up_question_sees_the_history_and_the_same_study(
    client: openai.OpenAI, assistant: Assistant
):
    images = random_study(2)
    first = client.chat.completions.create(**chat_body(images)).choices[0].message
    follow_up = [user_message(images), first.model_dump(), {"role": "user", "content": "左侧?"}]
    second = client.chat.completions.create(**chat_body([], messages=follow_up))
    history = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.content or ""},
        {"role": "user", "content": "左侧?"},
    ]
    expected, prompt = answer_in_process(assistant, images, history, 16)
    assert second.choices[0].message.content == expected
    assert second.usage is not None
    assert second.usage.prompt_tokens == prompt.num_prompt_tokens


def test_habits_of_ordinary_clients_are_served(client: openai.OpenAI, assistant: Assistant):
    images = random_study(2)
    body = chat_body(images, temperature=1.2, seed=3, logprobs=True, top_logprobs=2)
    several = client.chat.completions.create(**body, n=2, presence_penalty=0.5)
    assert [choice.index for choice in several.choices] == [0, 1]
    for choice in several.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        said = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
        assert said.decode(errors="replace") == choice.message.content
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    options = ["良性", "恶性"]
    schema = {"type": "object", "properties": {"verdict": {"enum": options}}}
    chosen = client.chat.completions.create(
        **chat_body(images),
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": {**schema, "required": ["verdict"]}},
        },
    )
    verdict = json.loads(chosen.choices[0].message.content or "")["verdict"]
    weighed = client.chat.completions.create(
        **chat_body(images), extra_body={"sonoray": {"options": options}}
    )
    assert weighed.choices[0].message.content == verdict
    shares = {
        o["text"]: o["probability"] for o in weighed.model_extra["sonoray"]["closed"]["options"]
    }
    assert max(shares, key=shares.__getitem__) == verdict
    assert sum(shares.values()) == pytest.approx(1.0)
    plain = client.completions.create(model="llava-ultra", prompt=QUESTION, max_tokens=8)
    question = [{"role": "user", "content": QUESTION}]
    alone = client.chat.completions.create(**chat_body([], messages=question, max_tokens=8))
    assert plain.choices[0].text == alone.choices[0].message.content
    assert alone.model_extra["sonoray"]["remarks"]
    vector = (
        client.embeddings.create(
            model="llava-ultra", input=[to_data_url(encode_png(image)) for image in images]
        )
        .data[0]
        .embedding
    )
    visual = assistant.encode(images)
    mean = visual.feature_scores.softmax(dim=0) @ visual.tokens.mean(dim=1)
    assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)


def test_a_dicom_object_becomes_a_report_and_what_is_said_of_it_is_kept(
    http: httpx2.Client, running: Any
):
    image = to_data_url(dicom_object(), "application/dicom")
    body = {"model": "llava-ultra", "question": QUESTION, "max_tokens": 8, "images": [image]}
    answer = http.post("/v1/reports", json={**body, "format": "dicom_sr"})
    assert answer.status_code == 200, answer.text
    report = answer.json()
    document = pydicom.dcmread(io.BytesIO(base64.b64decode(report["dicom"])))
    assert (document.Modality, document.StudyInstanceUID) == ("SR", "1.2.826.1")
    said = {"answer_id": report["id"], "rating": "bad", "corrected_text": "no", "images": [image]}
    assert http.post("/v1/feedback", json=said).json()["num_images"] == 2
    other = {"Authorization": "Bearer another-key-0123456789"}
    assert http.post("/v1/feedback", json=said, headers=other).status_code == 404
    path = running.workspace.root / "feedback.db"
    kept = iter_feedback(open_database(str(path), tables()[0], create=False))
    assert [each.corrected_text for each in kept] == ["no"]


def test_models_and_health(client: openai.OpenAI, running: Any, http: httpx2.Client):
    ready = httpx2.get(f"{running.root}/readyz", trust_env=False)
    assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
    assert "/v1/embeddings" in http.get("/openapi.json").json()["paths"]
    assert 'path="/readyz",status="200"' in http.get("/metrics").text
    assert [model.id for model in client.models.list()] == [running.service.model]
    assert client.models.retrieve(running.service.model).object == "model"
    page = httpx2.get(f"{running.root}/", trust_env=False)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "playground.js" in page.text
    health = httpx2.get(f"{running.root}/healthz", trust_env=False)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/nowhere", "/docs", "/openapi.json"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer not-a-key-0123456789"}])
def test_without_a_valid_key_everything_is_401(running: Any, path: str, headers: dict[str, str]):
    answer = httpx2.post(running.root + path, headers=headers, content=b"{}", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("extra", "error", "code"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model_not_found"),
        ({"n": 99}, openai.BadRequestError, "too_many_choices"),
        ({"functions": []}, openai.BadRequestError, "unsupported_parameter"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens_too_large"),
        ({"messages": []}, openai.BadRequestError, "invalid_value"),
        (
            {"messages": [user_message(random_study(1), "长" * 4000)]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_get_openais_errors(
    client: openai.OpenAI, extra: dict[str, Any], error: type, code: str, stream: bool
):
    with pytest.raises(error) as refused:
        client.chat.completions.create(**{**chat_body(random_study(1)), **extra, "stream": stream})
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:9/x.png", "image_url_not_data"),
        ("file:///etc/passwd", "image_url_not_data"),
        ("data:image/png;base64,%%%", "image_not_base64"),
        (to_data_url(b"\x89PNG\r\n\x1a\n" + CANARY.encode()), "image_not_accepted"),
        (to_data_url(encode_png(random_study(1)[0][:2])), "image_too_small"),
    ],
)
def test_bad_images_are_refused_with_fixed_texts(http: httpx2.Client, url: str, code: str):
    part = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": CANARY}
    body = chat_body([], messages=[{"role": "user", "content": [text, part]}])
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert CANARY not in answer.text


@pytest.mark.parametrize("declared", [True, False])
def test_large_bodies_are_refused(http: httpx2.Client, declared: bool):
    def chunks() -> Iterator[bytes]:
        for _ in range(60):
            yield b" " * 50_000

    content: Any = b" " * 3_000_000 if declared else chunks()
    answer = http.post(CHAT, content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_disconnect_frees_the_engines_slot(http: httpx2.Client, client: openai.OpenAI):
    before = engine_load()
    for _ in range(5):  # an answer may be over before the news of the disconnect arrives
        body = chat_body(random_study(1), stream=True, max_tokens=1000)
        with http.stream("POST", CHAT, json=body) as answer:
            for line in answer.iter_lines():
                if '"content": "' in line and '"role"' not in line:
                    break
        deadline = time.monotonic() + 10
        while (load := engine_load()).num_active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert load.num_active == 0
        if load.num_cancelled > before.num_cancelled:
            break
    assert load.num_cancelled > before.num_cancelled
    assert client.chat.completions.create(**chat_body(random_study(1))).choices


def test_disconnect_without_a_stream_frees_it_too(http: httpx2.Client):
    before = engine_load()
    for _ in range(5):
        with pytest.raises(httpx2.ReadTimeout):
            http.post(CHAT, json=chat_body(random_study(1), max_tokens=1000), timeout=0.15)
        deadline = time.monotonic() + 10
        while (load := engine_load()).num_active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert load.num_active == 0
        if load.num_cancelled > before.num_cancelled:
            return
    pytest.fail("no answer was cut by its client's disconnect")


def test_a_crowd_is_answered_or_told_to_come_again(http: httpx2.Client):
    # at most 24 are let in; the engine has one slot and a queue of 2
    body = chat_body(random_study(1), max_tokens=100)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: http.post(CHAT, json=body), range(16)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 3
            assert answer.json()["error"]["code"] == "busy"
    texts = {a.json()["choices"][0]["message"]["content"] for a in answers if a.is_success}
    assert len(texts) == 1
    assert http.post(CHAT, json=body).status_code == 200


def test_ask_uses_the_service_as_any_client(running: Any, assistant: Assistant):
    images = random_study(3)
    pictures = [
        Picture(name=f"view-{index}", data=encode_png(image)) for index, image in enumerate(images)
    ]
    reply = ask(QUESTION, pictures, url=running.service.url, api_key=running.key, max_tokens=16)
    question = [{"role": "user", "content": QUESTION}]
    expected, prompt = answer_in_process(assistant, images, question, 16)
    assert reply.answer == expected
    assert [use.name for use in reply.images if use.selected] == [
        f"view-{index}" for index in prompt.selected
    ]
    printed = "\n".join(reply.lines())
    assert assistant.notice in printed
    assert f"* {prompt.scores[prompt.selected[0]]:6.1%}  view-{prompt.selected[0]}" in printed


def test_a_stream_whose_ingress_is_killed_ends_with_an_error_event(http: httpx2.Client):
    body = chat_body(random_study(1), stream=True, max_tokens=1000, ignore_eos=True)
    events = []
    with http.stream("POST", CHAT, json=body) as answer:
        for line in answer.iter_lines():
            if not line:
                continue
            events.append(line.removeprefix("data: "))
            if len(events) == 3:
                (ingress,) = processes_of("ServeReplica:sonoray:ingress")
                ingress.kill()
    assert events[-1] != "[DONE]"
    assert json.loads(events[-1])["error"]["code"] == "unavailable"
    answer = http.post(CHAT, json=chat_body(random_study(1)))  # waits for the new one
    while answer.status_code == 503:
        time.sleep(float(answer.headers["Retry-After"]) / 5)
        answer = http.post(CHAT, json=chat_body(random_study(1)))
    assert answer.status_code == 200


def test_nothing_of_a_request_is_in_any_log(http: httpx2.Client, running: Any):
    body = chat_body(random_study(1), question=CANARY, user=CANARY, metadata={CANARY: CANARY})
    headers = {"X-Request-ID": CANARY, "User-Agent": CANARY}
    assert http.post(CHAT, json=body, headers=headers).status_code == 200
    assert http.post(CHAT, json={**body, CANARY: 1}, headers=headers).status_code == 400
    assert http.post(f"/{CANARY}?{CANARY}", headers=headers).status_code == 404
    time.sleep(1)
    logs = [path for path in running.logs.rglob("*") if path.is_file()]
    assert any("replica" in path.name for path in logs)
    assert [path for path in logs if CANARY.encode() in path.read_bytes()] == []


def test_malformed_requests_are_refused_and_change_nothing(running: Any, tmp_path: Path):
    key = tmp_path / "key"
    key.write_text(running.key)
    script = Path(__file__).resolve().parents[2] / "bench" / "serving" / "fuzz.py"
    command = [sys.executable, str(script), "--url", running.root, "--key-file", str(key)]
    done = subprocess.run([*command, "--requests", "250"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]
