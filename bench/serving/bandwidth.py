"""Decoding one stream beside the machine's memory bandwidth.

`python bench/serving/bandwidth.py`
`python bench/serving/bandwidth.py --precision bfloat16`

At one stream, every token reads all of the decoder's weights once. The engine, without HTTP and Ray
and on one thread, decodes one answer at a time with a decoder of SmolLM2-135M's size and random
weights; the tokens a second of a long answer, less a short one, times the bytes of the weights,
are what it reads a second. The machine's bandwidth is what one thread reads of a vector of 1 GB:
the fastest of several sums and products. Both in turn, medians over the rounds.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import torch
from beside_naive import shape

from llava_ultra.export.assistant import load_answerer, load_assistant
from llava_ultra.parameters.packed import PackedLinear
from llava_ultra.testing import tiny_artifact
from sonoray.metrics.tables import Table
from sonoray_serve.http.testing import random_study
from sonoray_serve.messages import EncodedStudy, Finished, Sampling
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.settings import Batching

FEW_TOKENS, TOKENS = 4, 68
BIG_BYTES = 1 << 30


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        tiny_artifact(model, config=shape("smollm2"))
        weights = decoder_bytes(model, args.precision)
        study = load_assistant(model).encode(random_study(1))
        engine = Engine(
            ModelSource(
                model=str(model), digest="", workspace="", device="cpu", precision=args.precision
            ),
            Batching(),
        )
        digest = asyncio.run(engine.ready())
        encoded = EncodedStudy(
            tokens=study.tokens.numpy(), feature_scores=study.feature_scores.numpy(), digest=digest
        )
        rates, reads = [], []
        for _ in range(args.rounds):
            reads.append(read_rate())
            rates.append(asyncio.run(tokens_a_second(engine, encoded)))
    shares = [rate * weights / read for rate, read in zip(rates, reads, strict=True)]
    rows = [
        ("tokens/s", rates),
        ("GB/s of weights that they read", [rate * weights / 1e9 for rate in rates]),
        ("GB/s that one thread reads of memory", [read / 1e9 for read in reads]),
        ("share of the bandwidth", shares),
    ]
    header = (f"one stream, {args.precision}, {weights / 1e6:.0f} MB", "median", "from", "to")
    cells = [
        (what, *(f"{each:.3g}" for each in (statistics.median(values), min(values), max(values))))
        for what, values in rows
    ]
    print("\n".join(Table(header=header, rows=tuple(cells)).text()))


def decoder_bytes(model: Path, precision: str) -> int:
    """Bytes of all weights that a token is multiplied by."""
    decoder = load_answerer(model, precision=precision).model.language_model
    item = 2 if precision == "bfloat16" else 4
    kinds = (torch.nn.Linear, PackedLinear)
    linear = [each for each in decoder.modules() if isinstance(each, kinds)]
    return sum(each.in_features * each.out_features * item for each in linear)


def read_rate() -> float:
    """Bytes a second that one thread reads."""
    whole = torch.ones(BIG_BYTES // 4)
    halves = whole.chunk(2)
    best = 0.0
    for _ in range(3):
        for read in (lambda: whole.sum(), lambda: torch.dot(*halves), lambda: whole.max()):
            began = time.perf_counter()
            read()
            best = max(best, BIG_BYTES / (time.perf_counter() - began))
    return best


async def tokens_a_second(engine: Engine, study: EncodedStudy) -> float:
    """Tokens a second of a long answer, less what a short one takes."""
    short_s, long_s = [await answer_s(engine, study, tokens) for tokens in (FEW_TOKENS, TOKENS)]
    return (TOKENS - FEW_TOKENS) / (long_s - short_s)


async def answer_s(engine: Engine, study: EncodedStudy, tokens: int) -> float:
    """Seconds of an answer of so many tokens."""
    sampling = Sampling(
        max_tokens=tokens,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        stop=(),
        timeout_s=600.0,
        stream=False,
        ignore_end=True,
    )
    messages = [{"role": "user", "content": "请描述超声所见。"}]
    began = time.perf_counter()
    found = [event async for event in engine.generate(study, messages, sampling)]
    finished = found[-1]
    assert isinstance(finished, Finished)
    assert finished.num_tokens == tokens
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
