"""The page in a real browser: from dropped files to an answer to feedback, wide and on a phone."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import pytest

from sonoray.images.decode import encode_png
from sonoray.records.database import open_database
from sonoray.records.feedback_table import iter_feedback, tables
from sonoray_serve.http.testing import QUESTION, dicom_object, random_study
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.playground.page import FILES, HEADERS, read_file

KEY = "unit-test-key-0123456789"
OPTIONS = ["良性", "恶性"]


def video(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for value in range(20, 180, 10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 80, 3), value, np.uint8), "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    """Two stills and a loop as files."""
    paths = []
    for number, pixels in enumerate(random_study(2)):
        paths.append(tmp_path / f"still-{number}.png")
        paths[-1].write_bytes(encode_png(pixels))
    paths.append(tmp_path / "loop.dcm")
    paths[-1].write_bytes(dicom_object())
    return paths


def keep(browser: Any, name: str, tmp_path: Path) -> None:
    """Save a picture of the page, where somebody wants to look at it."""
    folder = Path(os.environ.get("SONORAY_SCREENSHOTS") or tmp_path)
    browser.picture(folder / f"{name}.png")


def fits(browser: Any) -> bool:
    """Whether nothing stands out of the page sideways."""
    width = "document.documentElement.{}Width"
    fitting: bool = browser.evaluate(f"{width.format('scroll')} <= {width.format('client')}")
    return fitting


def enter(browser: Any, served: Any, *, width: int, language: str) -> None:
    browser.open(served.url, width=width, height=844)
    browser.evaluate(
        f"(s => {{s.value = '{language}'; s.dispatchEvent(new Event('change'));}})"
        "(document.querySelector('#language'))"
    )
    browser.write("#key", KEY)
    browser.wait_for("document.querySelector('#model').value")


def ask(browser: Any, question: str, options: str = "") -> None:
    browser.write("#question", question)
    browser.write("#options", options)
    browser.click("#ask")
    browser.wait_for("document.querySelector('#told').textContent")


def test_from_drop_to_answer_to_feedback(
    browser: Any, served: Any, study: list[Path], tmp_path: Path
):
    enter(browser, served, width=1200, language="en")
    assert browser.evaluate("document.querySelector('#model').value") == "llava-ultra"
    browser.drop("#drop", study)
    browser.wait_for("document.querySelectorAll('#pictures li').length === 3")
    ask(browser, QUESTION)
    text = browser.evaluate("document.querySelector('#text').textContent")
    seen = browser.evaluate(
        "[...document.querySelectorAll('#seen li')].map(each => [each.className, "
        "each.textContent, each.querySelector('img').src.slice(0, 22)])"
    )

    # the same as any client gets
    urls = [*map(_data_url, study)]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body: dict[str, Any] = {
        "model": "llava-ultra",
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}],
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=served.url, headers=headers, trust_env=False, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=body).json()
        closed = http.post(
            "/v1/chat/completions", json={**body, "sonoray": {"options": OPTIONS}}
        ).json()["sonoray"]["closed"]
    assert text == answer["choices"][0]["message"]["content"]
    images = answer["sonoray"]["images"]
    assert [image["part"] for image in images] == [0, 1, 2, 2]
    assert [each[0] for each in seen] == ["chosen" if i["selected"] else "" for i in images]
    for shown, image in zip(seen, images, strict=True):
        assert f"{100 * image['score']:.1f} %" in shown[1]
        assert shown[2] == "data:image/jpeg;base64"
    assert "For research only" in browser.evaluate("document.querySelector('#told').textContent")

    ask(browser, QUESTION, " / ".join(OPTIONS))
    shares = browser.evaluate(
        "[...document.querySelectorAll('#shares li')].map(each => each.textContent)"
    )
    assert shares == [
        f"{option['text']}{100 * option['probability']:.1f} %" for option in closed["options"]
    ]
    browser.click("#bad")
    browser.write("#correction", "恶性")
    keep(browser, "playground", tmp_path)
    browser.click("#send")
    browser.wait_for("!document.querySelector('#sent').hidden")
    (said,) = iter_feedback(open_database(str(served.feedback), tables()[0], create=False))
    assert (said.rating, said.corrected_text, said.question) == ("bad", "恶性", QUESTION)
    assert (said.options, len(said.images)) == (tuple(OPTIONS), 4)
    assert said.key == digest_key(KEY)[:12]
    assert answer["sonoray"]["digest"].startswith(said.model_digest)

    browser.write("#study", "1.2.3")
    browser.click("#ask")
    browser.wait_for("document.querySelector('#problem').textContent.includes('one study')")
    for _ in study:
        browser.click("#pictures li button")
    assert browser.errors == []
    browser.click("#ask")  # now by its UID alone
    browser.wait_for("document.querySelector('#problem').textContent.includes('DICOMweb server')")
    assert all("503" in error for error in browser.errors)
    assert all(url.startswith((served.url, "data:", "blob:")) for url in browser.asked)
    browser.write("#key", "not-a-key-0123456789")
    browser.wait_for("document.querySelector('#problem').textContent.includes('No valid API key')")


def test_a_phone_shows_all_of_it_in_its_width(
    browser: Any, served: Any, study: list[Path], tmp_path: Path
):
    enter(browser, served, width=390, language="zh")
    assert fits(browser)
    browser.drop("#drop", [study[0], video(tmp_path / "loop.webm")])
    browser.wait_for("document.querySelectorAll('#pictures li').length > 4")
    frames = browser.evaluate("document.querySelectorAll('#pictures li').length") - 1
    assert 4 <= frames <= 8
    for _ in range(frames - 1):  # the model takes four
        browser.click("#pictures li:last-child button")
    ask(browser, QUESTION, "/".join(OPTIONS))
    assert fits(browser)
    assert browser.evaluate("document.querySelectorAll('#seen li').length") == 2
    assert browser.evaluate("document.querySelector('#answer-title').textContent") == "回答"
    keep(browser, "playground-phone", tmp_path)
    assert browser.errors == []


def _data_url(path: Path) -> str:
    kind = "application/dicom" if path.suffix == ".dcm" else "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_the_page_says_the_same_in_both_languages():
    text = read_file("playground-words.js").decode()
    english, chinese = text.split("  zh: {")
    names = [
        [line.split(":")[0].strip() for line in part.splitlines() if line.startswith("    ")]
        for part in (english, chinese)
    ]
    assert names[0] == names[1]
    used = json.dumps(read_file("index.html").decode())
    assert set(re.findall(r'data-word=\\"(\w+)\\"', used)) <= set(names[0])


def test_nothing_is_run_or_loaded_but_the_page_s_own_files():
    page = read_file("index.html").decode()
    assert "<script>" not in page
    assert " style=" not in page
    assert "http" not in page
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]
    assert {name for name, _ in FILES.values()} == {
        path.name
        for path in Path(__file__).parents[4].joinpath("serve/sonoray_serve/playground").iterdir()
        if path.suffix in (".html", ".css", ".js")
    }
