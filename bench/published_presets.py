"""What the presets with published weights take, and on which GPU: the table of docs/published.md.

`python bench/published_presets.py [--write]`

The numbers are those of `sonoray describe`, on torch's meta device: no weights are needed. A study
has 9 images and a question of 200 tokens. A preset fits a GPU if training, or serving, on it alone
leaves a tenth of its memory free for CUDA's context and the gaps of the allocator.
`--write` puts the table into the pages of both languages; a minute of one core.
"""

import argparse
import re
import sys
from pathlib import Path

from sonoray_jobs.release.describe import Description, run
from sonoray_jobs.road.config import load_road

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"en": ROOT / "docs" / "published.md", "zh": ROOT / "docs" / "zh" / "published.md"}
PRESETS = {
    "smollm2": "SmolLM2-135M-Instruct",
    "qwen_tiny": "Qwen2.5-0.5B-Instruct",
    "qwen_small": "Qwen2.5-1.5B-Instruct",
    "smollm_large": "SmolLM2-1.7B-Instruct",
    "qwen": "Qwen2.5-7B-Instruct",
    "mistral": "Mistral-7B-Instruct-v0.3",
    "qwen_large": "Qwen2.5-14B-Instruct",
}
CARDS_GB = (8, 24, 48, 80)
IMAGES, TEXT_TOKENS = 9, 200
FREE_SHARE = 0.1
GIB = 1024**3
_HEADS = {
    "en": ("preset", "decoder", "its parameters", "trained", "studies a step", "training, GiB",
           "trains on", "serving, GiB", "serves on"),
    "zh": ("预设", "解码器", "其参数", "可训练", "每步检查数", "训练，GiB", "训练用", "服务，GiB",
           "服务用"),
}  # fmt: skip
_BLOCK = re.compile(r"(<!-- published presets -->\n).*?(<!-- end -->)", re.DOTALL)


def row_of(name: str, described: Description) -> tuple[str, ...]:
    """The row of a preset."""
    parts = {part.name: part for part in described.parts}
    training = needed_for_training(described)
    serving = needed_for_serving(described)
    return (
        f"`{name}`",
        PRESETS[name],
        f"{parts['language model'].parameters / 1e9:.2f} B",
        f"{sum(part.trainable for part in described.parts) / 1e6:.0f} M",
        str(described.studies_per_gpu),
        f"{training:.1f}",
        card_for(training),
        f"{serving:.1f}",
        card_for(serving),
    )


def card_for(needed: float) -> str:
    """The smallest GPU that has so many GiB and a tenth more."""
    cards = [f"{card} GB" for card in CARDS_GB if needed <= (1 - FREE_SHARE) * card]
    return cards[0] if cards else "-"


def needed_for_training(described: Description) -> float:
    """GiB of one GPU that trains alone, on stored features."""
    (total,) = {row.total for row in described.training if (row.zero_stage, row.num_gpus) == (1, 1)}
    return total / GIB


def needed_for_serving(described: Description) -> float:
    """GiB of one GPU that holds vision and engine; answers in 0.5 GiB, as `serve.batching` has."""
    serving = described.serving
    activations = serving.vision_activations + serving.prefill_activations
    return (serving.weights + activations) / GIB + 0.5


def describe(name: str) -> Description:
    """What `sonoray describe` says of a preset."""
    return run(road=load_road(name), config=name, images=IMAGES, text_tokens=TEXT_TOKENS)


def table(rows: list[tuple[str, ...]], language: str) -> str:
    """The rows as Markdown."""
    lines = [_HEADS[language], ("---",) * len(_HEADS[language]), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Print the table, or write it into the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the pages")
    write = parser.parse_args().write
    rows = [row_of(name, describe(name)) for name in PRESETS]
    for language, page in PAGES.items():
        made = table(rows, language)
        sys.stdout.write(made)
        if write:
            text = page.read_text(encoding="utf-8")
            page.write_text(_BLOCK.sub(rf"\1\n{made}\n\2", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
