"""Requests that no client should send, drawn from a seed: `bench/serving/fuzz.py` sends them.

Four kinds, as they come in practice: a right request with one value of another kind somewhere in
its JSON; bytes of a right request that were cut, flipped or are of another encoding; images that
are truncated, 16 bits deep, CMYK, animated, of 300 frames, of one pixel, of a size that only their
header has, of another type than they say, or no images; and paths, methods and headers that do not
exist or do not fit.
"""

import copy
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from sonoray_serve.http.testing import chat_body, random_study, to_data_url

CHAT = "/v1/chat/completions"
BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    CHAT: lambda url: {
        **chat_body([]),
        "messages": [{"role": "user", "content": [_text(), _image(url)]}],
        "stream": False,
        "sonoray": {"options": ["良性", "恶性"]},
    },
    "/v1/completions": lambda _: {"model": "llava-ultra", "prompt": "器官?", "max_tokens": 2},
    "/v1/embeddings": lambda url: {"model": "llava-ultra", "input": [url]},
    "/v1/recognize": lambda url: {
        "model": "llava-ultra",
        "images": [url],
        "classes": [{"name": "囊肿"}, {"name": "恶性结节"}],
    },
}
"""A right request of each path that does work."""

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 1e308, "", "x" * 9_000, "\u0000", "良" * 3_000, "\ud800"),
    *([], {}, [[]], [None] * 2_000, {"": ""}, {"a" * 300: 1}, [[[[[[[[[[1]]]]]]]]]]),
)
"""What takes the place of a right value."""

METHODS = ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "POST")
PATHS = (
    *("/", "/v1", "/v1/chat", "/v1/models/", "/v1/models/../../etc/passwd", "/openapi.json"),
    *("/docs", "/metrics", "/readyz", "/-/routes", "/%00", "/v1/models/%ff", "/" + "a" * 4_000),
    *BODIES,
)
HEADERS: tuple[dict[str, str], ...] = (
    {"Content-Type": "text/plain"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic eDp5"},
    {"Accept": "image/png"},
    {"X-Request-ID": "x" * 2_000},
    {"X-Request-Timeout-Seconds": "-1"},
    {"Content-Encoding": "gzip"},
    {"Expect": "100-continue"},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Malformed:
    """A request."""

    kind: str
    path: str
    content: bytes
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def draw_malformed(rng: random.Random) -> Malformed:
    """Any of the four kinds."""
    return rng.choice((_other_value, _other_bytes, _other_image, _other_way))(rng)


def _other_value(rng: random.Random) -> Malformed:
    path = rng.choice(tuple(BODIES))
    body = BODIES[path](_good_url())
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = _places(body)
        if not places:  # nothing is left of it
            break
        place, key = rng.choice(places)
        action = rng.random()
        if action < 0.7:
            place[key] = copy.deepcopy(rng.choice(VALUES))
        elif isinstance(place, dict):
            place.pop(key)
            if action < 0.85:
                place[rng.choice(("url", "role", "tools", "__proto__", "input", "n"))] = 1
        else:
            place.extend(place[:1] * rng.choice((1, 100, 1_100)))
    content = json.dumps(body).encode()
    return Malformed(kind="value", path=path, content=content)


def _places(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    """Every container and key within a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found


def _other_bytes(rng: random.Random) -> Malformed:
    path = rng.choice(tuple(BODIES))
    content = bytearray(json.dumps(BODIES[path](_good_url()), ensure_ascii=False).encode())
    how = rng.randrange(6)
    if how == 0:
        del content[rng.randrange(len(content)) :]
    elif how == 1:
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == 2:
        content = bytearray(content.decode().encode("utf-16"))
    elif how == 3:
        content = bytearray(b"[" * 50_000 + content)
    elif how == 4:
        content = bytearray(rng.randbytes(rng.randint(0, 3_000)))
    else:
        content = content * 2
    return Malformed(kind="bytes", path=path, content=bytes(content))


def _other_image(rng: random.Random) -> Malformed:
    path = rng.choice((CHAT, CHAT, "/v1/embeddings", "/v1/recognize"))
    name = rng.choice(tuple(_IMAGES))
    data = _image_data(name)
    if rng.random() < 0.3:  # damaged too
        cut = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            cut[rng.randrange(len(cut))] = rng.randrange(256)
        data = bytes(cut[: rng.randint(1, len(cut))])
    url = to_data_url(data, rng.choice(("image/png", "image/jpeg", "image/svg+xml", "text/html")))
    if rng.random() < 0.1:
        url = rng.choice(("http://127.0.0.1/x.png", "file:///etc/passwd", "data:,", url[:-3] + "*"))
    body = BODIES[path](url)
    body.pop("sonoray", None)
    return Malformed(kind=f"image: {name}", path=path, content=json.dumps(body).encode())


def _other_way(rng: random.Random) -> Malformed:
    path = rng.choice(PATHS)
    content = json.dumps(BODIES.get(path, BODIES[CHAT])(_good_url())).encode()
    return Malformed(
        kind="way",
        path=path + rng.choice(("", "", "?a=b", "/")),
        content=b"" if rng.random() < 0.3 else content,
        method=rng.choice(METHODS),
        headers=rng.choice(HEADERS),
    )


def _saved(pixels: np.ndarray, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
    out = io.BytesIO()
    mode = options.pop("mode", None)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


def _animated(kind: str, frames: int) -> bytes:
    images = [Image.fromarray(each) for each in random_study(frames, seed=1)]
    out = io.BytesIO()
    images[0].save(out, kind, save_all=True, append_images=images[1:])
    return out.getvalue()


def _announced(width: int, height: int) -> bytes:
    """A PNG whose header says more than its data holds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    parts = [
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_GREY = random_study(1, seed=2)[0]
_IMAGES: dict[str, Callable[[], bytes]] = {
    "truncated png": lambda: _saved(_GREY, "PNG")[:-900],
    "truncated jpeg": lambda: _saved(_GREY, "JPEG")[:-300],
    "16 bits": lambda: _saved(_GREY.astype(np.uint16) * 200, "PNG"),
    "cmyk": lambda: _saved(_GREY, "JPEG", mode="CMYK"),
    "animated gif": lambda: _animated("GIF", 3),
    "animated png": lambda: _animated("PNG", 3),
    "animated webp": lambda: _animated("WEBP", 3),
    "300 frames": lambda: _animated("GIF", 300),
    "1 x 1": lambda: _saved(_GREY[:1, :1], "PNG"),
    "1 x 9000": lambda: _saved(np.zeros((1, 9_000), np.uint8), "PNG"),
    "announced 65,000 x 65,000": lambda: _announced(65_000, 65_000),
    "announced 4,000 x 4,000": lambda: _announced(4_000, 4_000),
    "webp": lambda: _saved(_GREY, "WEBP"),
    "tiff": lambda: _saved(_GREY, "TIFF"),
    "bmp": lambda: _saved(_GREY, "BMP"),
    "transparent": lambda: _saved(np.zeros((40, 40, 4), np.uint8), "PNG"),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/>',
    "empty": lambda: b"\0",
    "noise": lambda: np.random.default_rng(0).bytes(5_000),
}


@cache
def _image_data(name: str) -> bytes:
    return _IMAGES[name]()


@cache
def _good_url() -> str:
    return to_data_url(_saved(_GREY, "PNG"))


def _text() -> dict[str, Any]:
    return {"type": "text", "text": "器官?"}


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
