import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llava_ultra.cost.parts import build_parts, part_sizes
from sonoray.errors import ConfigError
from sonoray_jobs.cli.main import main
from sonoray_jobs.release.describe import run
from sonoray_jobs.road.config import load_road
from sonoray_jobs.training.worker import set_trainable

DOCS = Path(__file__).resolve().parents[4] / "docs"
PUBLISHED = (DOCS / "published.md").read_text(encoding="utf-8")
CHINESE = (DOCS / "zh" / "published.md").read_text(encoding="utf-8")
ROWS = re.compile(r"^\| `[a-z0-9_]+` \| .*GB \|$", re.MULTILINE)

WHOLE_PAPER = """
import sys
from sonoray_jobs.cli.main import main
try:
    main(["describe", "--config", "paper", "--json"])
except SystemExit as end:
    assert not end.code
# not `ru_maxrss`, which starts with that of the process that started this one
kibibytes = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
print(int(kibibytes) * 1024, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def tiny():
    return run(road=load_road("tiny"), config="tiny", images=5, text_tokens=40)


def test_the_paper_preset_is_described_without_its_weights():
    """30 GiB of weights, of which none may exist; the libraries themselves take some 0.7 GB."""
    child = subprocess.run(
        [sys.executable, "-c", WHOLE_PAPER], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(child.stdout)
    parts = {part["name"]: part for part in found["parts"]}
    width, inner, layers, words = 4096, 11_008, 32, 55_296
    block = 4 * width**2 + 3 * width * inner + 2 * width
    decoder = layers * block + 2 * words * width + width
    assert parts["language model"]["parameters"] == decoder
    adapters = layers * 128 * (8 * width + 3 * (width + inner))
    assert parts["LoRA"] == {
        "name": "LoRA",
        "parameters": adapters,
        "trainable": adapters,
        "frozen": 0,
    }
    assert found["tokens"]["per_image"] == 1024
    assert found["tokens"]["per_study"] == 9 * 1024
    cache = 2 * layers * 1000 * width * 4
    assert found["serving"]["cache_per_1000_tokens"] == cache
    peak_bytes = int(child.stderr.split()[-1])
    assert peak_bytes < 3e9 < decoder * 2


@pytest.mark.parametrize(("name", "tokens"), [("tiny", 36), ("base", 256), ("paper", 1024)])
def test_a_presets_grids_fit_and_nothing_is_allocated(name, tokens):
    road = load_road(name)
    parts = build_parts(road.model)
    assert parts.clip.num_tokens == parts.sam.num_tokens == tokens
    for part in (parts.clip, parts.sam, parts.model):
        assert all(parameter.is_meta for parameter in part.parameters())


@pytest.mark.parametrize(
    ("name", "clip", "sam", "language"),
    [("base", 86e6, 90e6, 0.46e9), ("paper", 304e6, 308e6, 6.93e9)],
)
def test_the_presets_parts_have_their_published_sizes(name, clip, sam, language):
    sizes = {part.name: part.parameters for part in part_sizes(build_parts(load_road(name).model))}
    assert sizes["CLIP tower"] == pytest.approx(clip, rel=0.01)
    assert sizes["SAM tower"] == pytest.approx(sam, rel=0.01)
    assert sizes["language model"] == pytest.approx(language, rel=0.01)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("smollm2", 134_515_008),
        ("qwen_tiny", 494_032_768),
        ("qwen_small", 1_543_714_304),
        ("smollm_large", 1_711_376_384),
        ("mistral", 7_248_023_552),
        ("qwen", 7_615_616_512),
        ("qwen_large", 14_770_033_664),
    ],
)
def test_a_preset_with_published_weights_has_their_size_before_they_are_here(name, language):
    """To the parameter, as their publishers count them."""
    road = load_road(name)
    assert not Path(road.model.language.source).exists()
    sizes = {part.name: part.parameters for part in part_sizes(build_parts(road.model))}
    assert sizes["language model"] == language
    if name != "smollm2":  # its towers are made on the spot
        assert sizes["CLIP tower"] == pytest.approx(304e6, rel=0.01)
        assert sizes["SAM tower"] == pytest.approx(90e6, rel=0.01)
    row = next(line for line in PUBLISHED.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {language / 1e9:.2f} B |" in row


def test_the_page_of_published_weights_shows_what_describe_says():
    """Of the smallest; `python bench/published_presets.py --write` makes the whole table anew."""
    found = run(road=load_road("qwen_tiny"), config="qwen_tiny", images=9, text_tokens=200)
    (training,) = {r.total for r in found.training if (r.zero_stage, r.num_gpus) == (1, 1)}
    row = next(line for line in PUBLISHED.splitlines() if line.startswith("| `qwen_tiny` |"))
    assert f"| {training / 2**30:.1f} |" in row
    assert sorted(ROWS.findall(PUBLISHED)) == sorted(ROWS.findall(CHINESE))


def test_what_learns_is_what_the_last_stage_trains(tiny):
    trainable = {part.name for part in tiny.parts if part.trainable}
    assert trainable == {"fusion", "sampler", "LoRA"}
    road = load_road("tiny")
    align_only = road.model_copy(
        update={"train": road.train.model_copy(update={"stages": road.train.stages[:1]})}
    )
    described = run(road=align_only, config="x", images=5, text_tokens=40)
    assert {part.name for part in described.parts if part.trainable} == {"fusion", "sampler"}
    parts = build_parts(road.model)
    set_trainable(parts.model, road.train.stages[-1])
    expected = sum(p.numel() for p in parts.model.parameters() if p.requires_grad)
    assert sum(part.trainable for part in tiny.parts) == expected


def test_the_json_keeps_its_shape(tiny):
    found = json.loads(json.dumps(tiny.to_json()))

    def shape(value):
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value).__name__

    assert shape(found) == {
        "config": "str",
        "precision": "str",
        "tower_precision": "str",
        "studies_per_gpu": "int",
        "studies_at_once": "int",
        "study": dict.fromkeys(("images", "images_read", "questions", "text_tokens"), "int"),
        "parts": [{"name": "str", **dict.fromkeys(("parameters", "trainable", "frozen"), "int")}],
        "tokens": dict.fromkeys(
            ("per_image", "per_study", "images_read", "prompt", "context_length"), "int"
        ),
        "feature_bytes_per_image": "int",
        "embeddings_per_training_image": "int",
        "flops": dict.fromkeys(
            (
                "clip_tower",
                "sam_tower",
                "further_towers",
                "connector_forward",
                "connector_backward",
                "language_forward",
                "language_backward",
                "step",
            ),
            "int",
        ),
        "training": [
            dict.fromkeys(
                (
                    "zero_stage",
                    "num_gpus",
                    "weights",
                    "gradients",
                    "optimizer",
                    "activations",
                    "host",
                    "total",
                ),
                "int",
            )
        ],
        "serving": dict.fromkeys(
            (
                "weights",
                "vision_activations",
                "prefill_activations",
                "cache_per_1000_tokens",
            ),
            "int",
        ),
    }


def test_parts_recomputed_layers_and_offloading_are_counted(tiny):
    def training(*overrides):
        described = run(road=load_road("tiny", overrides), config="x", images=5, text_tokens=40)
        return described, {(row.zero_stage, row.num_gpus): row for row in described.training}

    known = {(row.zero_stage, row.num_gpus): row for row in tiny.training}
    assert {stage for stage, _ in known} == {0, 1, 2, 3}
    parts, rows = training("train.micro_studies=2")
    assert (tiny.studies_at_once, parts.studies_at_once) == (8, 2)
    assert rows[2, 4].activations < 0.3 * known[2, 4].activations
    assert rows[3, 4] == known[3, 4]  # parts are refused
    assert "8 studies each, 2 at once:" in "\n".join(parts.lines())
    prompt = tiny.tokens.images_read + 40 * tiny.study.questions
    assert training(f"train.micro_tokens={3 * prompt}")[0].studies_at_once == 3
    anew = training("train.activation_checkpointing=true")
    assert anew[1][2, 4].activations < known[2, 4].activations  # the decoder is the least of it
    assert anew[0].flops.language_backward > 1.2 * tiny.flops.language_backward
    assert anew[0].flops.language_forward == tiny.flops.language_forward
    offloaded, rows = training("train.offload=optimizer")
    assert rows[2, 4].host > rows[2, 4].optimizer == 0
    assert rows[2, 4].total < known[2, 4].total
    assert any(line.split()[-1:] == ["host"] for line in offloaded.lines())


def test_a_person_reads_the_same_figures(tiny):
    text = "\n".join(tiny.lines())
    total = sum(part.parameters for part in tiny.parts)
    assert f"{total:,}" in text
    assert f"{tiny.tokens.per_study:,} per study" in text
    for word in ("CLIP tower", "SAM tower", "LoRA", "ZeRO", "key-value cache"):
        assert word in text


def test_features_take_what_the_store_will_hold(tiny):
    road = load_road("tiny")
    channels = road.model.clip.width + road.model.sam_channels
    assert tiny.feature_bytes_per_image == road.model.num_tokens * channels * 2


@pytest.mark.parametrize("text_tokens", [476, 9000])
def test_a_text_that_does_not_fit_the_context_is_refused(text_tokens):
    with pytest.raises(ConfigError, match=f"text \\({text_tokens}\\) do not fit .* 512 tokens"):
        run(
            road=load_road("tiny"),
            config="tiny",
            images=5,
            text_tokens=text_tokens,
        )


def test_the_command_describes_the_overridden_configuration(capsys):
    with pytest.raises(SystemExit):
        main(["describe", "--config", "tiny", "--set", "model.lora.rank=4", "--json"])
    printed = json.loads(capsys.readouterr().out)
    lora = next(part for part in printed["parts"] if part["name"] == "LoRA")
    model = load_road("tiny").model.language
    width, inner = model.hidden_size, model.intermediate_size
    assert lora["parameters"] == model.num_layers * 4 * (8 * width + 3 * (width + inner))


def test_views_cost_what_as_many_images_cost(tiny):
    views = run(
        road=load_road("tiny", ["embed.views=3"]),
        config="tiny", images=5, text_tokens=40,
    )  # fmt: skip
    stored = next(line for line in views.lines() if line.startswith("feature store"))
    each = views.feature_bytes_per_image / 1e6
    assert stored == (
        f"feature store: {each:.2f} MB per image, {4 * each:.2f} MB per training image, which is "
        "embedded 4 times"
    )
    assert "embedded" not in "".join(tiny.lines())
