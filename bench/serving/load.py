"""A crowd of clients: requests of mixed length, streamed, a fixed number at once."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from sonoray_serve.http.testing import chat_body, random_study

CHAT = "/v1/chat/completions"
QUESTIONS = ("器官?", "病灶是良性还是恶性?", "请描述超声所见。", "病灶的边缘如何?" * 3)


@dataclass(kw_only=True, slots=True)
class Served:
    """What came of all requests."""

    texts: dict[int, str] = field(default_factory=dict)
    first_s: list[float] = field(default_factory=list)
    """Seconds from the start of each request to its first text."""
    took_s: list[float] = field(default_factory=list)
    """Seconds from the start of each request to its end."""
    ended: Counter[str] = field(default_factory=Counter)
    """How requests ended: a status, `broke off`, or the name of what the client met."""
    wall_s: float = 0.0


def draw(count: int, tokens: tuple[int, int], *, seed: int) -> list[dict[str, Any]]:
    """Request bodies about studies of 1 to 4 images that nobody has asked about before."""
    rng = random.Random(seed)
    return [
        chat_body(
            random_study(rng.randint(1, 4), seed=1_000 * seed + number),
            rng.choice(QUESTIONS),
            max_tokens=rng.randint(*tokens),
            stream=True,
        )
        for number in range(count)
    ]


async def crowd(
    url: str, bodies: Sequence[dict[str, Any]], *, streams: int, key: str = ""
) -> Served:
    """Send all requests to a service, `streams` of them at once."""
    served, places = Served(), asyncio.Semaphore(streams)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=streams + 4)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=600, limits=limits, trust_env=False
    ) as http:
        # encoded before the clock starts: it is no part of the service
        contents = [json.dumps(body).encode() for body in bodies]

        async def one(number: int, content: bytes) -> None:
            async with places:
                await ask(http, number, content, served)

        began = time.perf_counter()
        await asyncio.gather(*(one(number, each) for number, each in enumerate(contents)))
        served.wall_s = time.perf_counter() - began
    return served


async def ask(http: httpx2.AsyncClient, number: int, content: bytes, served: Served) -> None:
    """Send one request, read its stream, and note how it ended."""
    began, first_s, text, is_done = time.perf_counter(), 0.0, "", False
    try:
        async with http.stream("POST", CHAT, content=content) as response:
            if response.status_code != 200:
                await response.aread()
                how = str(response.status_code)
                if how in ("429", "503") and "retry-after" not in response.headers:
                    how += " without Retry-After"
                served.ended[how] += 1
                return
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    is_done = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    for choice in event.get("choices", ()):
                        if piece := choice["delta"].get("content"):
                            first_s = first_s or time.perf_counter() - began
                            text += piece
    except httpx2.HTTPError as error:
        served.ended[type(error).__name__] += 1
        return
    served.ended["200" if is_done else "broke off"] += 1
    if is_done:
        served.texts[number] = text
        served.first_s.append(first_s)
        served.took_s.append(time.perf_counter() - began)
