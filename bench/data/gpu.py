"""Both towers at full size on a GPU in bfloat16: images/s, share of the chip's peak, busy share.

`python bench/data/gpu.py [--config paper] [--batches 1 4 16 64] [--seconds 10]`

Random weights and random pixels that lie on the GPU already: the towers alone, an upper bound of
what `sonoray embed` reaches there at `embed.precision = "bfloat16"`, which brings the pixels along.
FLOPs are those of `sonoray describe`; the peak is the data sheet's for dense bfloat16 products
(`--peak-tflops` for a chip that is not in the list). The busy share is nvidia-smi's: the part of
the time in which any kernel ran, however small.

Without a GPU it says so and writes nothing. `--device cpu --config tiny` runs the same code there.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, machine, write_result

from llava_ultra.cost.parts import build_parts
from llava_ultra.cost.trace import trace_encoder
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from sonoray_jobs.road.config import load_road

PEAK_TFLOPS = {
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H200": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
}
"""Dense bfloat16 products on tensor cores, from NVIDIA's data sheets, by torch's device name."""
WARM_UP = 3
SAMPLE_MS = 200


def main() -> None:
    """Run both towers at every batch size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="paper")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each batch size")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: skipped")
        return
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if given.device == "cuda" else "cpu"
    peak = given.peak_tflops or PEAK_TFLOPS.get(name)
    parts = build_parts(
        load_road(given.config).model, precision="bfloat16", tower_precision="bfloat16"
    )
    towers = {"clip": parts.clip, "sam": parts.sam}
    flops = {tower: trace_encoder(module, 1).flops for tower, module in towers.items()}
    rows = []
    for tower, module in towers.items():
        fill(module, device)
        for batch in given.batches:
            row = {"tower": tower, "batch": batch, "gflops_per_image": flops[tower] / 1e9}
            row |= measure(module, batch, given.seconds, device)
            if peak and "images_per_second" in row:
                row["share_of_peak"] = row["images_per_second"] * flops[tower] / (peak * 1e12)
            rows.append(row)
            print(row, file=sys.stderr)
        module.to_empty(device="meta")
    result = {
        "asked": {"config": given.config, "batches": given.batches, "seconds": given.seconds},
        "machine": {**machine(), "gpu": name, "peak_tflops": peak},
        "rows": rows,
    }
    write_result(given.results, "gpu", result)


def fill(tower: ClipTower | SamTower, device: torch.device) -> None:
    """Give a tower without values small random weights, and deviations of 1."""
    generator = torch.Generator(device).manual_seed(0)
    tower.to_empty(device=device)
    for parameter in tower.parameters():
        parameter.normal_(std=0.02, generator=generator)
    for buffer in tower.buffers():
        buffer.fill_(1)


@torch.no_grad()
def measure(
    tower: ClipTower | SamTower, batch: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Encode the same pixels for so many seconds; images/s and, on a GPU, its busy share."""
    size = tower.image_size
    generator = torch.Generator(device).manual_seed(0)
    pixels = torch.randn(batch, 3, size, size, generator=generator, device=device)
    try:
        for _ in range(WARM_UP):
            features = tower(pixels)
        assert torch.isfinite(features).all()
        synchronise(device)
        rounds, start = 0, time.perf_counter()
        with busy_samples(device) as samples:
            while time.perf_counter() - start < seconds:
                tower(pixels)
                synchronise(device)
                rounds += 1
            elapsed_s = time.perf_counter() - start
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"problem": "out of memory"}
    row: dict[str, Any] = {"images_per_second": rounds * batch / elapsed_s}
    if samples:
        row["busy_share"] = statistics.mean(samples) / 100
    if device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / 1024**3
        torch.cuda.reset_peak_memory_stats(device)
    return row


def synchronise(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def busy_samples(device: torch.device) -> Iterator[list[float]]:
    """Fill a list, when the block ends, with nvidia-smi's utilisation of the GPU in percent."""
    samples: list[float] = []
    if device.type != "cuda":
        yield samples
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    query += ["--id=0", f"--loop-ms={SAMPLE_MS}"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            yield samples
        finally:
            watcher.terminate()
            printed, _ = watcher.communicate()
        samples += [float(line) for line in printed.split() if line.strip().isdigit()]


if __name__ == "__main__":
    main()
