"""What an archive costs: bytes and GPU hours, from counted FLOPs and a few measured inputs.

`python bench/data/scale.py [--images 1700000] [--texts 188000] [--gpus 8] [--config paper]`

The default is the archive of LLaVA-Ultra (arXiv 2410.15074): 1.7 million images, 188,000 texts.

- Counted: FLOPs of the towers and of a training step, bytes of features (`sonoray describe`).
- Measured here, in seconds: bytes of a study's row with its texts, bytes of an image of 1,024 px
  as PNG, and what decoding and letterboxing it takes one core. The phantom stands in for the
  archive; its speckle compresses as badly as real speckle.
- Measured by `gpu.py` where it ran: the towers' images/s. Else, and for training, a share of the
  GPU's peak is assumed (`--gpu-share`, `--peak-tflops`); the result says which.

Start-up is left out: seconds, beside hours.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from cost_model import Inputs, compute, cost_table
from record import RESULTS, machine, write_result

from llava_ultra.towers.pixels import letterbox
from sonoray.images.decode import decode_stored, encode_png
from sonoray.phantom import PhantomConfig, plan_study, render_view
from sonoray.study.contract import Study, StudyImage, write_studies
from sonoray_jobs.outputs.stores import TOWERS, stores_of
from sonoray_jobs.release import describe
from sonoray_jobs.road.config import RoadConfig, load_road

SIDE = 1024
"""Pixels of an archive's image."""
SAMPLES = 12
"""Images that are decoded and encoded."""
STUDIES = 200
"""Study rows that are written."""
TEXT_TOKENS = 128


def main() -> None:
    """Collect the inputs, compute, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_700_000)
    parser.add_argument("--texts", type=int, default=188_000)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--config", default="paper")
    parser.add_argument("--peak-tflops", type=float, default=989.4, help="bfloat16, default H100")
    parser.add_argument("--gpu-share", type=float, default=0.3, help="of the peak, where assumed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    road = load_road(given.config)
    speed = given.peak_tflops * 1e12 * given.gpu_share
    images_per_study = max(1, round(given.images / given.texts))
    described = describe.run(
        road=road,
        config=given.config,
        images=images_per_study,
        text_tokens=TEXT_TOKENS,
        dtype="bfloat16",
    )
    flops = {"clip": described.flops.clip_tower, "sam": described.flops.sam_tower}
    measured = measured_rates(given.results / "gpu.json", given.config)
    png_bytes, decode_s = measure_images(road)
    inputs = Inputs(
        images=given.images,
        texts=given.texts,
        gpus=given.gpus,
        images_per_file=road.embed.images_per_file,
        epochs=sum(stage.epochs for stage in road.train.stages),
        png_bytes=png_bytes,
        decode_s=decode_s,
        study_bytes=measure_studies(images_per_study),
        feature_bytes=feature_bytes(road),
        images_per_second=measured or {t: speed * images_per_study / flops[t] for t in TOWERS},
        step_flops=described.flops.step,
        training_flops_per_second=speed,
    )
    costs = compute(inputs)
    result = {
        "asked": {
            "config": given.config,
            "images_per_study": images_per_study,
            "peak_tflops": given.peak_tflops,
            "gpu_share": given.gpu_share,
            "rates": "measured" if measured else "assumed",
        },
        "machine": machine(),
        "inputs": asdict(inputs),
        "costs": asdict(costs),
    }
    print("\n".join(cost_table(inputs, costs).text()), file=sys.stderr)
    write_result(given.results, "scale", result)


def feature_bytes(road: RoadConfig) -> dict[str, int]:
    """Bytes of one image in each tower's store; opening a store touches no disk."""
    prints = {tower: tower for tower in TOWERS}
    stores = stores_of(Path("nowhere"), road.model, road.embed, prints)
    return {tower: store.predict_bytes(1) for tower, store in stores.items()}


def measured_rates(path: Path, config: str) -> dict[str, float] | None:
    """The towers' best images/s on a GPU, where they were measured for this configuration."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["asked"]["config"] != config or result["machine"]["gpu"] == "cpu":
        return None
    rows = [row for row in result["rows"] if "images_per_second" in row]
    return {t: max(r["images_per_second"] for r in rows if r["tower"] == t) for t in TOWERS}


def measure_images(road: RoadConfig) -> tuple[float, float]:
    """Mean bytes of a phantom image as PNG, and one core's median seconds to prepare it."""
    config = PhantomConfig(num_patients=SAMPLES, image_size=SIDE, images=(1, 1))
    pngs = [
        encode_png(render_view(config, plan_study(config, patient, 0), 0)[0])
        for patient in range(SAMPLES)
    ]
    seconds = []
    for png in pngs:
        start = time.perf_counter()
        pixels = decode_stored(png)
        for side in (road.model.clip.image_size, road.model.sam.image_size):
            letterbox(pixels, side)
        seconds.append(time.perf_counter() - start)
    return float(np.mean([len(png) for png in pngs])), float(np.median(seconds))


def measure_studies(images_per_study: int) -> float:
    """Bytes of a study's row in its Parquet file: phantom texts, as many images, real ids."""
    config = PhantomConfig(num_patients=STUDIES)
    studies = [
        Study(
            study_id=_digest(f"study {patient}"),
            patient_key=_digest(f"patient {patient}"),
            split="train",
            dataset="phantom",
            images=tuple(
                StudyImage(
                    image_id=_digest(f"{patient} {number}"),
                    uri=f"images/part-{patient:05d}.parquet",
                    width=SIDE,
                    height=SIDE,
                )
                for number in range(images_per_study)
            ),
            turns=plan_study(config, patient, 0).turns,
        )
        for patient in range(STUDIES)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        write_studies(Path(scratch), studies)
        return sum(p.stat().st_size for p in Path(scratch).rglob("*.parquet")) / STUDIES


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
