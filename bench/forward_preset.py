"""A preset's parts with random weights, really run at full shape on the CPU, beside `describe`.

`.venv/bin/python bench/forward_preset.py --preset paper --part sam`

Each part runs alone, in a process of its own, so that its peak memory is its own: a tower encodes
one image, the language model reads one prompt of a study (the kept images' tokens and 128 of text).
Of a language model that would not fit, `--layers` builds the first decoder layers only, at full
width and with all embeddings. The features' shape is checked against what `describe` counted; the
memory that it foresees (weights, and what is alive at once) stands beside the process's own peak,
less what it held before.
"""

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llava_ultra.config import ModelConfig, images_kept
from llava_ultra.cost.parts import build_parts
from llava_ultra.cost.trace import Load, trace_encoder, trace_prefill
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.parameters.products import DTYPES
from sonoray.metrics.tables import Table
from sonoray_jobs.road.config import load_road

PARTS = ("clip", "sam", "language")
TEXT_TOKENS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One part's run."""

    parameters: int
    shape: tuple[int, ...]
    """Of what it handed out."""
    seconds: float
    peak_bytes: int
    """Resident at most, less what was before the part was built."""
    described_bytes: int
    """Weights and what `describe` counts as alive at once."""


def main() -> None:
    """Run the parts one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--layers", type=int, help="decoder layers to build; default: all")
    given = parser.parse_args()
    config = load_road(given.preset).model
    if given.layers:
        language = config.language.model_copy(update={"num_layers": given.layers})
        config = config.model_copy(update={"language": language})
    rows = []
    for part in given.part or PARTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(measure, (part, config, given.dtype))
        rows.append(
            (
                part,
                f"{measured.parameters:,}",
                str(measured.shape),
                f"{measured.seconds:.1f}",
                f"{measured.peak_bytes / 1024**3:.2f}",
                f"{measured.described_bytes / 1024**3:.2f}",
            )
        )
    header = ("part", "parameters", "output", "seconds", "peak, GiB", "described, GiB")
    print("\n".join(Table(header=header, rows=tuple(rows)).markdown()))


@torch.no_grad()
def measure(part: str, config: ModelConfig, precision: Precision) -> Measured:
    """Describe a part, then build it with random weights and run it once."""
    parts = build_parts(config, precision=precision, tower_precision=precision)
    load = Load(studies=1, images=1, questions=1, text_tokens=TEXT_TOKENS)
    generator = torch.Generator().manual_seed(0)
    before = peak_bytes()
    if part == "language":
        adapted = parts.model.language_model
        described = trace_prefill(parts, load)
        expected = (1, described.tokens, config.language.vocab_size)
        prompt = torch.randn(*expected[:2], config.language.hidden_size, generator=generator)
        model = fill(adapted, generator)
        start = time.perf_counter()
        output = model(inputs_embeds=prompt.to(DTYPES[precision]), use_cache=True).logits
        peak = described.peak_bytes
        assert images_kept(config.sampling, 1) * config.num_tokens + TEXT_TOKENS == expected[1]
    else:
        tower = {"clip": parts.clip, "sam": parts.sam}[part]
        encoded = trace_encoder(tower, 1)
        expected, peak = encoded.features, encoded.peak_bytes
        size = tower.image_size
        pixels = torch.randn(1, 3, size, size, generator=generator)
        model = fill(tower, generator)
        start = time.perf_counter()
        output = model(pixels)
    seconds = time.perf_counter() - start
    assert tuple(output.shape) == expected, (tuple(output.shape), expected)
    assert torch.isfinite(output).all()
    weights = [*model.parameters(), *model.buffers()]
    return Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        shape=tuple(output.shape),
        seconds=seconds,
        peak_bytes=peak_bytes() - before,
        described_bytes=sum(tensor.nbytes for tensor in weights) + peak,
    )


def fill(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a part without values random weights; deviations and rotary frequencies are set to 1."""
    module.to_empty(device="cpu").eval()
    for parameter in module.parameters():
        parameter.normal_(std=0.02, generator=generator)
    for buffer in module.buffers():
        buffer.fill_(1)
    return module


def peak_bytes() -> int:
    """The most that this process was resident in, without that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
