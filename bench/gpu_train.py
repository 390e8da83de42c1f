"""LoRA of LLaMA decoders at full size on a GPU in bfloat16: tokens/s, MFU, memory beside describe.

Run: `python bench/gpu_train.py [--shapes 7b 13b] [--tokens 2048 4096] [--step-tokens 8192]
[--rounds 5] [--results FOLDER]`, on a machine with one GPU; no Ray, no data, no weights. It takes
some three minutes on a card with 80 GB.

The weights are random, the preset is `paper` with the decoder's shape changed. A step is that of a
training worker without DeepSpeed: fusion, sampler, decoder with LoRA on all its linear layers, the
losses, backward, clipping, AdamW. A row is one study with one picture of 1,024 tokens and one
question; all of its text is counted as the answer's, so logits are computed of most of the row.

FLOPs are `sonoray describe`'s, counted operator by operator: two for each multiplication with its
addition, attention without the half that a causal mask leaves out, nothing for what activation
checkpointing computes again. Frozen weights get no gradient, so that backward costs about what
forward costs, and not twice. `mfu` is these FLOPs a second over the peak of the card's data sheet;
`mfu_6n` is the usual 6 FLOPs for each parameter of the decoder and token, as if all of it learned,
to be set beside figures of full training.

Memory is what torch had allocated at most in a step, beside what describe says for one GPU.

Without a GPU it says so and measures nothing. `--device cpu --shapes tiny --tokens 96
--step-tokens 192 --rounds 1` runs the same code there, without memory.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_ultra.batch import Batch, TextBatch, VisualBatch
from llava_ultra.config import ModelConfig
from llava_ultra.cost.parts import build_parts, part_sizes
from llava_ultra.cost.trace import Load, trace_training
from llava_ultra.cost.zero import Part, training_memory
from llava_ultra.language.chat import IGNORED
from llava_ultra.language.decoder import checkpoint_activations, llama_config
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra, trainable_parameters
from llava_ultra.parameters.groups import decay_groups
from llava_ultra.parameters.products import check_precision
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from sonoray_jobs.road.config import load_road
from sonoray_jobs.training.worker import set_trainable

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11_008, "num_layers": 32, "num_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13_824, "num_layers": 40, "num_heads": 40},
}
"""LLaMA's; `tiny` is the preset."""
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0}
"""Dense bfloat16 products on tensor cores, from NVIDIA's data sheets; the first that fits."""
WARM_UP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table."""

    shape: str
    tokens: int
    """Of a row: picture and text."""
    studies: int
    checkpoints: bool
    """Whether activations are computed anew."""


def main() -> None:
    """Run every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, "tiny"], default=list(SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5, help="steps that are counted")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: skipped")
        return
    device = torch.device(given.device)
    check_precision("bfloat16", device.type, "precision")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    fitting = [value for part, value in PEAK_TFLOPS.items() if part in name]
    peak = given.peak_tflops or (fitting[0] if fitting else None)
    rows = []
    for shape in given.shapes:
        config = shaped(shape)
        model = build(config, device)
        for tokens in given.tokens:
            for checkpoints in (False, True):
                case = Case(
                    shape=shape,
                    tokens=tokens,
                    studies=max(1, given.step_tokens // tokens),
                    checkpoints=checkpoints,
                )
                row = asdict(case) | measure(case, config, model, given.rounds, device, peak)
                rows.append(row)
                print(json.dumps(row), flush=True)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if given.results:
        names = ("shapes", "tokens", "step_tokens", "rounds")
        asked = {each: getattr(given, each) for each in names}
        result = {"asked": asked, "machine": machine(name, peak), "rows": rows}
        given.results.mkdir(parents=True, exist_ok=True)
        path = given.results / "gpu_train.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def shaped(shape: str) -> ModelConfig:
    """The preset with another decoder."""
    if shape == "tiny":
        return load_road("tiny").model
    config = load_road("paper").model
    longest = {"context_length": 1 << 16, "source": ""}
    language = config.language.model_copy(update=SHAPES[shape] | longest)
    return config.model_copy(update={"language": language})


def build(config: ModelConfig, device: torch.device) -> LlavaUltra:
    """The model with random weights, made where it is trained."""
    from transformers import AutoModelForCausalLM

    settings = llama_config(config.language, vocab_size=config.language.vocab_size)
    torch.manual_seed(0)
    with torch.device(device):
        decoder = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
        model = LlavaUltra(config, add_lora(decoder, config.lora), precision="bfloat16")
    set_trainable(model, load_road("paper").train.stages[-1])
    return model.train()


def measure(
    case: Case,
    config: ModelConfig,
    model: LlavaUltra,
    rounds: int,
    device: torch.device,
    peak: float | None,
) -> dict[str, Any]:
    """Steps of a case beside what describe counts for it."""
    load = Load(
        studies=case.studies, images=1, questions=1, text_tokens=case.tokens - config.num_tokens
    )
    switch_checkpoints(model, on=case.checkpoints)
    predicted = describe(config, load, checkpoints=case.checkpoints)
    row: dict[str, Any] = {"tflops_a_step": round(predicted["flops"] / 1e12, 2)}
    row["predicted_gib"] = gib(predicted["memory"])
    try:
        seconds, allocated = steps(model, batch_of(config, load), rounds, device)
    except torch.OutOfMemoryError:
        model.zero_grad()
        torch.cuda.empty_cache()
        return row | {"problem": "out of memory"}
    step_s = statistics.median(seconds)
    tokens = case.studies * case.tokens
    decoder = sum(p.numel() for p in model.language_model.parameters())
    row |= {
        "step_s": [round(value, 4) for value in seconds],
        "tokens_per_second": round(tokens / step_s),
    }
    if peak:
        row["mfu"] = round(predicted["flops"] / step_s / (peak * 1e12), 4)
        row["mfu_6n"] = round(6 * decoder * tokens / step_s / (peak * 1e12), 4)
    if allocated:
        row["allocated_gib"] = gib(allocated)
        row["allocated_over_predicted"] = round(allocated / predicted["memory"], 3)
    return row


def steps(
    model: LlavaUltra, batch: Batch, rounds: int, device: torch.device
) -> tuple[list[float], int]:
    """Seconds of each counted step, and the bytes that were allocated at most (0 on a CPU)."""
    learned = list(trainable_parameters(model).values())
    optimizer = torch.optim.AdamW(decay_groups(model, weight_decay=0.01), lr=1e-4)
    seconds = []
    for number in range(WARM_UP + rounds):
        if number == WARM_UP and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        synchronise(device)
        start = time.perf_counter()
        share = forward_share(model, batch, PartLimits(), device=device)
        share.owed.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    allocated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return seconds[WARM_UP:], allocated


def describe(config: ModelConfig, load: Load, *, checkpoints: bool) -> dict[str, int]:
    """FLOPs of a step, without what is computed again, and bytes on the GPU."""
    parts = build_parts(config, precision="bfloat16")
    set_trainable(parts.model, load_road("paper").train.stages[-1])
    once = trace_training(parts, load)
    step = once
    if checkpoints:
        switch_checkpoints(parts.model, on=True)
        step = trace_training(parts, load)
    sizes = [
        Part(name=s.name, parameters=s.parameters, trainable=s.trainable, frozen=s.frozen)
        for s in part_sizes(parts)
    ]
    memory = training_memory(
        sizes,
        precision="bfloat16",
        zero_stage=0,
        num_gpus=1,
        largest_layer=0,
        activations=step.peak_bytes,
    )
    flops = (
        once.connector_forward
        + once.connector_backward
        + once.language_forward
        + once.language_backward
    )
    return {"flops": flops, "memory": memory.total}


def switch_checkpoints(model: LlavaUltra, *, on: bool) -> None:
    """Compute activations anew, or keep them."""
    decoder: Any = model.language_model.get_base_model()  # type: ignore[operator]
    if on:
        checkpoint_activations(decoder)
    else:
        decoder.activation_checkpointing_disable()


def batch_of(config: ModelConfig, load: Load) -> Batch:
    """Random features and ids, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (load.studies, load.images, config.num_tokens)
    channels = {"clip": config.clip.num_channels, "sam": config.sam_channels}
    visual = VisualBatch(
        **{name: torch.randn(*shape, size, generator=generator) for name, size in channels.items()},
        image_mask=torch.ones(load.studies, load.images, dtype=torch.bool),
    )
    size = (load.studies, load.text_tokens)
    ids = torch.randint(3, config.language.vocab_size, size, generator=generator)
    labels = ids.clone()
    labels[:, :2] = IGNORED
    text = TextBatch(
        ids=ids,
        labels=labels,
        mask=torch.ones_like(ids, dtype=torch.bool),
        study_index=torch.arange(load.studies),
    )
    return Batch(visual=visual, text=text)


def synchronise(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(name: str, peak: float | None) -> dict[str, Any]:
    """What the figures depend on."""
    sys.path.insert(0, str(ROOT / "bench" / "data"))
    from record import machine as described

    return {**described(), "gpu": name, "peak_tflops": peak, "cuda": torch.version.cuda}


def gib(size: int) -> float:
    """Bytes in GiB."""
    return round(size / 1024**3, 3)


if __name__ == "__main__":
    main()
