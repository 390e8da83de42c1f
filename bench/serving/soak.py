"""Half an hour of mixed requests: memory, errors and slots; or a load that rises and falls.

`python bench/serving/soak.py`
`python bench/serving/soak.py --minutes 6 --rates 0.5 12 0.5 --max-engines 3 --max-answers 1
--plot steps.png`

Requests arrive at random at the rates given, each for the same part of the time: new studies of 1
to 4 images, second questions about them, whole and streamed answers, options, several answers, and
one in ten clients that leaves after the first piece. Memory is the resident size of the replicas
and proxies every 5 seconds; growth is the median of the last fifth over that of the second fifth,
when all memories for what was seen before are full: they are set to 4 MB here, so that they are.
At the end as many long answers as the engine decodes at once are asked for together: with a slot
lost, one of them would begin after another has ended.

With `--max-engines` above 1 the engine may scale, the sooner the fewer answers one decodes at once;
the plot shows rate, engine replicas, requests in work and time to the first text. The exit status
is 1 where a request failed, a slot is lost, or memory grew by more than 2 %.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from beside_naive import server, shape
from load import CHAT, QUESTIONS

from llava_ultra.testing import tiny_artifact
from sonoray_jobs.service.listening import free_port
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.settings import Batching, Replicas, ServeConfig

GROWTH = 0.02
PERIOD_S = 5.0
KEPT_BYTES = 4_000_000
UPSCALE_S, DOWNSCALE_S = 10.0, 30.0
"""How long work is more or less than the engines want before their number changes."""


@dataclass(kw_only=True, slots=True)
class Seen:
    """What came of all requests."""

    ended: Counter[str] = field(default_factory=Counter)
    first_s: list[tuple[float, float]] = field(default_factory=list)
    """When a stream began, and how long its first text took."""
    samples: list[dict[str, float]] = field(default_factory=list)
    """Every few seconds: `at`, `rate`, `memory_mb`, `engines`, `in_work`."""
    in_work: int = 0
    processes: set[str] = field(default_factory=set)
    """All replicas and proxies that were seen."""


def main() -> None:
    """Run it, print what came of it, and draw it where that is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0], help="answers a second")
    parser.add_argument("--max-engines", type=int, default=1)
    parser.add_argument("--max-answers", type=int, default=16, help="decoded at once")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    config = ServeConfig(
        engine=Replicas(
            num_cpus=0.25,
            max_ongoing=32,
            max_queued=16,
            max_replicas=args.max_engines,
            upscale_delay_s=UPSCALE_S,
            downscale_delay_s=DOWNSCALE_S,
        ),
        batching=Batching(
            max_answers=args.max_answers, prefix_bytes=KEPT_BYTES, study_bytes=KEPT_BYTES
        ),
        encoded_image_bytes=KEPT_BYTES,
    )
    with tempfile.TemporaryDirectory() as folder:
        model, port = Path(folder) / "model", free_port()
        tiny_artifact(model, config=shape("tiny"))
        me = str(Path(__file__).resolve().with_name("beside_naive.py"))
        command = [me, "--serve", str(model), "--port", str(port)]
        with server([*command, "--config", config.model_dump_json()], port) as url:
            seen = asyncio.run(soak(url, args.minutes * 60, args.rates))
            lost = asyncio.run(lost_slots(url, config.batching.max_answers))
    if args.plot:
        draw(seen, args.plot)
    sys.exit(report(seen, lost))


async def soak(url: str, seconds: float, rates: Sequence[float]) -> Seen:
    """Send requests for the whole time."""
    seen, rng, tasks = Seen(), random.Random(0), set[asyncio.Task[None]]()
    limits = httpx2.Limits(max_connections=400)
    async with httpx2.AsyncClient(
        base_url=url, timeout=150, limits=limits, trust_env=False
    ) as http:
        began = time.monotonic()
        watch = asyncio.create_task(sample(seen, began, seconds, rates))
        number = 0
        while (now := time.monotonic() - began) < seconds:
            rate = rates[min(int(now / seconds * len(rates)), len(rates) - 1)]
            await asyncio.sleep(rng.expovariate(rate))
            number += 1
            task = asyncio.create_task(one(http, body(rng, number), rng.random(), seen, began))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await watch
    return seen


def body(rng: random.Random, number: int) -> dict[str, Any]:
    """A request; every third one is about the study of the one before."""
    study = random_study(1 + number // 3 % 4, seed=10_000 + number // 3)
    extra: dict[str, Any] = {"max_tokens": rng.randint(8, 64), "stream": rng.random() < 0.7}
    if rng.random() < 0.1:
        extra |= {"stream": False, "sonoray": {"options": ["良性", "恶性"]}}
    elif rng.random() < 0.1:
        extra |= {"n": 3, "temperature": 1.0, "seed": number}
    return chat_body(study, rng.choice(QUESTIONS), **extra)


async def one(
    http: httpx2.AsyncClient, body: dict[str, Any], chance: float, seen: Seen, began: float
) -> None:
    """Send one request and note how it ended; some clients leave early."""
    seen.in_work += 1
    started = time.monotonic()
    try:
        if not body["stream"]:
            answer = await http.post(CHAT, json=body)
            seen.ended[str(answer.status_code)] += 1
            return
        how = "broke off"
        async with http.stream("POST", CHAT, json=body) as answer:
            if answer.status_code != 200:
                how = str(answer.status_code)
            first = False
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    how = "200"
                elif '"content": "' in line and '"role"' not in line and not first:
                    first = True
                    seen.first_s.append((started - began, time.monotonic() - started))
                    if chance < 0.1:
                        how = "left"
                        break
        seen.ended[how] += 1
    except httpx2.HTTPError as error:
        seen.ended[type(error).__name__] += 1
    finally:
        seen.in_work -= 1


async def sample(seen: Seen, began: float, seconds: float, rates: Sequence[float]) -> None:
    """Look at the processes now and then."""
    while (now := time.monotonic() - began) < seconds:
        processes = service_processes()
        seen.processes |= processes.keys()
        seen.samples.append(
            {
                "at": now,
                "rate": rates[min(int(now / seconds * len(rates)), len(rates) - 1)],
                "memory_mb": sum(rss_mb(each) for each in processes.values()),
                "engines": sum("sonoray:engine" in name for name in processes),
                "in_work": seen.in_work,
                "processes": len(processes),
            }
        )
        await asyncio.sleep(PERIOD_S)


def service_processes() -> dict[str, psutil.Process]:
    """Replicas and proxies that this process has started, by what they are and their number."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            name = " ".join(child.cmdline())
        except psutil.Error:  # it has just ended
            continue
        if any(word in name for word in ("ServeReplica", "Proxy", "haproxy")):
            # behind the dot is the call that it works on
            found[f"{name.split('.')[0]} {child.pid}"] = child
    return found


def rss_mb(process: psutil.Process) -> float:
    """Resident size; 0 of a process that has just ended."""
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0


async def lost_slots(url: str, num_slots: int) -> int:
    """Ask for as many long answers as there are slots; gives those that began after an end."""
    began: list[float] = []
    ended: list[float] = []
    study = random_study(1, seed=1)

    async def ask() -> None:
        long = chat_body(study, QUESTIONS[0], max_tokens=300, stream=True, ignore_eos=True)
        async with http.stream("POST", CHAT, json=long) as answer:
            answer.raise_for_status()
            first = True
            async for line in answer.aiter_lines():
                if first and '"content": "' in line and '"role"' not in line:
                    began.append(time.monotonic())
                    first = False
        ended.append(time.monotonic())

    limits = httpx2.Limits(max_connections=num_slots)
    async with httpx2.AsyncClient(
        base_url=url, timeout=150, limits=limits, trust_env=False
    ) as http:
        await asyncio.gather(*(ask() for _ in range(num_slots)))
    return sum(each > min(ended) for each in began)


def report(seen: Seen, lost: int) -> int:
    """Print what came of it; gives the exit status."""
    failed = {how: count for how, count in seen.ended.items() if how not in ("200", "left")}
    fifth = max(len(seen.samples) // 5, 1)
    memory = [each["memory_mb"] for each in seen.samples]
    early, late = memory[fifth : 2 * fifth] or memory, memory[-fifth:]
    growth = statistics.median(late) / statistics.median(early) - 1
    engines = [int(each["engines"]) for each in seen.samples]
    said = {
        "requests": seen.ended.total(),
        "ended": dict(seen.ended),
        "memory, MB": [round(each) for each in (memory[0], *memory[fifth::fifth], memory[-1])],
        "growth": round(growth, 4),
        "engines, first, most, last": (engines[0], max(engines), engines[-1]),
        "processes, first, all that were seen": (
            int(seen.samples[0]["processes"]),
            len(seen.processes),
        ),
        "slots lost": lost,
        "first text, median s": round(statistics.median(each for _, each in seen.first_s), 3),
    }
    print(json.dumps(said, ensure_ascii=False, indent=1))
    flat = growth <= GROWTH or max(engines) > 1  # of one size of service alone
    return int(bool(failed) or lost > 0 or not flat)


def draw(seen: Seen, path: Path) -> None:
    """Rate, replicas, requests in work and time to the first text over the time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    at = [each["at"] / 60 for each in seen.samples]
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(8, 8), layout="constrained")
    for axis, name, label in zip(
        axes,
        ("rate", "engines", "in_work"),
        ("answers/s asked", "engines", "in work"),
        strict=False,
    ):
        axis.step(at, [each[name] for each in seen.samples], where="post")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[3].plot([a / 60 for a, _ in seen.first_s], [s for _, s in seen.first_s], ".", ms=3)
    axes[3].set_ylabel("s to first text")
    axes[3].set_xlabel("minutes")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
