"""The measurements of embedding: their arithmetic, their pages, and what they embed.

The pages hold no figure that is not in `bench/results`. The scripts themselves run in
tests/ray/test_bench_data.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench" / "data"

MACHINE = {
    "processor": "a processor", "cores": 2, "memory_gib": 8.0, "load_before": 0.1,
    "python": "3.11.9", "ray": "2.60.0", "torch": "2.15.0", "commit": "abc1234",
    "day": "2026-11-22",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def scripts() -> object:
    """The scripts import each other by name."""
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


def inputs(**changes: object) -> object:
    from cost_model import Inputs

    values = {
        "images": 1000, "texts": 100, "gpus": 2, "images_per_file": 64, "epochs": 3,
        "png_bytes": 500.0, "decode_s": 0.5, "study_bytes": 300.0,
        "feature_bytes": {"clip": 10, "sam": 30},
        "images_per_second": {"clip": 50.0, "sam": 12.5},
        "step_flops": 4e12, "training_flops_per_second": 1e12,
    }  # fmt: skip
    return Inputs(**(values | changes))


def round_of(pipeline_s: float, rate: float) -> dict[str, dict[str, object]]:
    """A round of `throughput.py`: 1000 images, the plain loop at 100 images/s in 12 s."""
    busy = {"decode": 4.0, "clip": 2.0, "sam": 8.0, "write": 1.0}
    job = {"num_images": 1000, "predicted_bytes": 990, "stored_bytes": 1000, "busy_s": busy}
    waits = {"waiting for decoded images": 3.0, "forward": 9.0, "write": 6.0}
    return {
        "pilot": {"num_images": 100, "images_per_second": 50.0, "process_s": 6.0},
        "pipeline": {**job, "images_per_second": rate, "process_s": pipeline_s},
        "cached": {"process_s": 0.5},
        "plain_loop": {"images_per_second": 100.0, "process_s": 12.0},
        "data_loader": {"process_s": 30.0, "main_process_s": waits},
    }


@pytest.mark.parametrize("page", ["performance.md", "scale.md"])
def test_a_page_says_what_the_results_say(page):
    from report import fill_page

    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert fill_page(text, ROOT / "bench" / "results") == text
    assert "<!-- table: " in text


def test_every_table_has_its_script_and_its_block():
    from report import IN_BENCH, PAGES, TABLES

    pages = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
    for name in TABLES:
        assert ((BENCH.parent if name in IN_BENCH else BENCH) / f"{name}.py").is_file()
        assert pages.count(f"<!-- table: {name} -->") == 1
    assert pages.count("<!-- table: ") == pages.count("<!-- end -->") == len(TABLES)


def test_a_block_is_replaced_and_the_text_around_it_stays(tmp_path):
    from record import write_result
    from report import fill_page

    page = "before\n<!-- table: embed_faults -->\nold figures\n<!-- end -->\nafter\n"
    missing = fill_page(page, tmp_path)
    assert "old figures" not in missing
    assert "Not measured yet: `python bench/data/embed_faults.py`" in missing
    assert missing.startswith("before\n")
    assert missing.endswith("<!-- end -->\nafter\n")
    row = {"kills": 7, "went_on": 6, "repeated": 1, "recomputed": 0}
    result = {"asked": {"kills": 7}, "machine": MACHINE, "summary": {"actor": row}}
    write_result(tmp_path, "embed_faults", {**result, "took_s": 90.0})
    filled = fill_page(missing, tmp_path)
    assert "| actor | 7 | 6 | 1 | 0 features |" in filled
    assert "Asked: kills 7. a processor, 2 cores, 8.0 GiB, load before 0.1; Ray 2.60.0" in filled
    assert "It took 2 minutes." in filled
    assert fill_page(filled, tmp_path) == filled


def test_ratios_are_formed_within_a_round():
    from report import throughput
    from throughput import summarise

    summary = summarise([round_of(10.0, 96.0), round_of(20.0, 104.0), round_of(12.0, 98.0)])
    ratios = summary["ratios"]
    assert ratios["steady_over_plain_loop"]["median"] == pytest.approx(0.98)
    assert ratios["whole_over_plain_loop"] == pytest.approx(
        {"median": 1.0, "min": 0.6, "max": 1.2, "rounds": 3}
    )
    assert ratios["whole_over_data_loader"]["median"] == pytest.approx(2.5)
    assert ratios["cached"]["median"] == pytest.approx(24)
    assert ratios["predicted_bytes"]["median"] == pytest.approx(0.99)
    # 4 s of start-up, then 1000 images at the pilot's 50 a second
    assert ratios["predicted_time"]["median"] == pytest.approx(24 / 12)
    available = 12.0 * (os.cpu_count() or 1)
    assert summary["profile"]["sam"]["median"] == pytest.approx(8.0 / available)
    assert summary["data_loader_profile"]["forward"]["median"] == pytest.approx(0.3)
    lines = throughput({"summary": summary})
    assert "| images/s over the plain loop's | at least 0.95 | 0.98 | 0.96 to 1.04 |" in lines
    assert "| the embed job again | 0.5 (0.5 to 0.5) | - |" in lines


def test_growth_leaves_the_start_up_out():
    from null_towers import summarise
    from report import null_towers

    runs = [
        {"studies": studies, "make_s": 1.0, "process_s": 20 + seconds, "driver_peak_bytes": peak}
        for studies, seconds, peak in ((100, 1, 2e8), (1100, 11, 2e8), (11100, 131, 2.2e8))
    ]
    summary = summarise(runs)
    assert summary["further_thousand_s"] == pytest.approx([10, 12])
    assert summary["cost_growth"] == pytest.approx(1.2)
    assert summary["memory_growth"] == pytest.approx(1.1)
    assert set(summarise(runs[:1])) == {"further_thousand_s"}
    lines = null_towers({"runs": runs, "summary": summary})
    assert "| 11,100 | 1 | 151.0 | 220.00 MB |" in lines
    assert any(line.endswith("| 0.9 to 1.1 | 1.20 |") for line in lines)


def test_the_cost_model_adds_up():
    from cost_model import compute

    costs = compute(inputs())
    assert costs.image_table_bytes == 500_000
    assert costs.study_table_bytes == 30_000
    assert costs.feature_store_bytes == {"none": 0, "clip": 10e3, "sam": 30e3, "both": 40e3}
    assert costs.feature_files == 16
    assert costs.feature_file_bytes == {"clip": 640, "sam": 1920}
    assert costs.index_bytes == 2 * 1000 * 24
    assert costs.embed_hours == pytest.approx({"clip": 10 / 3600, "sam": 40 / 3600})
    assert costs.decode_cores == pytest.approx(10)  # 20 images a second, half a second each
    assert costs.training_hours == pytest.approx(600 / 3600)
    assert costs.gpu_hours == pytest.approx(2 * 650 / 3600)
    assert compute(inputs(gpus=4)).gpu_hours == pytest.approx(costs.gpu_hours)


def test_the_scale_page_says_which_rates_were_assumed():
    from dataclasses import asdict

    from cost_model import compute
    from report import scale

    given = inputs()
    asked = {"rates": "assumed", "gpu_share": 0.3, "peak_tflops": 989.4}
    result = {"asked": asked, "inputs": asdict(given), "costs": asdict(compute(given))}
    lines = scale(result)
    assert "| images/s of one GPU | CLIP 50, SAM 12 | assumed: 30% of 989.4 TFLOP/s |" in lines
    assert "| feature store, `both` | 40,000 B |" in lines
    assert "| files of each tower's store, 64 images each | 16 |" in lines
    assert "| such a file, SAM | 1,920 B |" in lines
    result["asked"]["rates"] = "measured"
    assert "| images/s of one GPU | CLIP 50, SAM 12 | measured |" in scale(result)


def test_the_rate_is_that_between_the_first_commit_and_the_last(tmp_path):
    from ways import images_per_second, stored_bytes

    from sonoray.features.store import FeatureStore

    stores = [FeatureStore(tmp_path, name, 1, 1) for name in ("clip", "sam")]
    moment = 1_000_000.0
    for start in (0, 2):
        for store in stores:
            store.write([str(start), str(start + 1)], np.zeros((2, 1, 1)))
            folder = Path(store.place)
            (newest,) = set(folder.glob("batch-*")) - set(folder.glob("batch-*.done"))
            os.utime(newest, (moment, moment))
            newest.rename(newest.with_name(newest.name + ".done"))
            moment += 2.0
    for path in tmp_path.rglob("*.done"):
        path.rename(path.with_suffix(""))
    # 4 commits, 6 s between the first and the last: 3 of 4 parts of the work
    assert images_per_second(stores, 4) == pytest.approx(4 * 0.75 / 6)
    assert stored_bytes(stores) == sum(p.stat().st_size for p in tmp_path.rglob("batch-*.arrow"))


def test_blank_studies_are_a_dataset_like_any_other(tmp_path):
    from material import NULL_SHAPE, null_dataset, null_towers

    from sonoray.images.decode import image_id
    from sonoray.study.contract import iter_studies
    from sonoray.study.image_table import read_images
    from sonoray.workspace import Workspace

    home = Workspace.open(tmp_path)
    output = null_dataset(home, 70)
    assert home.dataset("null-70").path == output.path
    studies = list(iter_studies(output.path))
    ids = [image.image_id for study in studies for image in study.images]
    assert len(set(ids)) == len(studies) == 70
    pixels = read_images(output.path, ids)
    assert all(image_id(image) == name for name, (image, _) in pixels.items())
    for tower in null_towers(home):
        features = tower.load()(np.ones((3, 16, 16, 3), np.uint8))
        assert features.shape == (3, *NULL_SHAPE) == (3, *tower.store.shape)
        assert not features.any()


def test_a_tower_under_faults_notes_what_it_begins(tmp_path):
    from collections import Counter

    from fault_job import load_noted
    from material import null_towers

    from sonoray.workspace import Workspace

    tower = null_towers(Workspace.open(tmp_path))[0]
    encode = load_noted(tower, tmp_path / "log")
    one, other = np.zeros((1, 16, 16, 3), np.uint8), np.ones((1, 16, 16, 3), np.uint8)
    for canvases in (one, other, one):
        assert encode(canvases).shape == (1, 1, 8)
    begun = Counter((tmp_path / "log").read_text().splitlines())
    assert sorted(begun.values()) == [1, 2]
    assert all(line.startswith("clip ") for line in begun)


@pytest.mark.slow
def test_the_gpu_measurement_runs_on_a_cpu_and_says_where_there_is_no_gpu(tmp_path):
    import json

    import torch

    tiny = ["--config", "tiny", "--batches", "1", "--seconds", "0.01", "--results", str(tmp_path)]
    command = [sys.executable, str(BENCH / "gpu.py"), *tiny]
    subprocess.run([*command, "--device", "cpu", "--peak-tflops", "1"], check=True, timeout=300)
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [row["tower"] for row in result["rows"]] == ["clip", "sam"]
    for row in result["rows"]:
        speed = row["images_per_second"] * row["gflops_per_image"]
        assert row["share_of_peak"] == pytest.approx(speed / 1000)
    if not torch.cuda.is_available():
        (tmp_path / "gpu.json").unlink()
        said = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
        assert said.stdout == "no GPU: skipped\n"
        assert not list(tmp_path.iterdir())
