"""What `matmul_precision = "medium"` saves in learning: pretraining steps of the tiny road, timed.

`.venv/bin/python bench/matmul_precision.py`

Each part takes some steps at "highest" and as many at "medium", in turn, on one thread and on
phantom studies made on the spot; shown are the median seconds of a step and their ratio. A
processor without bfloat16 instructions gains nothing.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.pretrain.causal import pretrain_language
from llava_ultra.pretrain.contrastive import pretrain_clip
from llava_ultra.pretrain.masks import pretrain_sam
from llava_ultra.pretrain.pretrain_config import PretrainConfig
from llava_ultra.pretrain.words import bag_of_words
from sonoray.phantom import PhantomConfig, iter_phantom
from sonoray_jobs.road.config import load_road

ROUNDS = 3
WARM_UP = 3
"""Steps of each round that are not counted."""


def main() -> None:
    """Print a line per part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15, help="steps of a round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for part, pretrain in parts(given.steps).items():
        times: dict[str, list[float]] = {"highest": [], "medium": []}
        for _ in range(ROUNDS):
            for precision, taken in times.items():
                taken += step_times(pretrain, precision)
        seconds = {precision: median(taken) for precision, taken in times.items()}
        result[part] = {**seconds, "ratio": seconds["medium"] / seconds["highest"]}
    if given.json:
        print(json.dumps(result, indent=1))
        return
    for part, values in result.items():
        print(
            f"{part:9} {values['highest']:.3f} s a step at highest, {values['medium']:.3f} at "
            f"medium: {values['ratio']:.2f}"
        )


def step_times(
    pretrain: Callable[[str, Callable[..., None]], object], precision: str
) -> list[float]:
    """Seconds of each step after the first few."""
    moments: list[float] = []
    pretrain(precision, lambda *_: moments.append(time.perf_counter()))
    return [after - before for before, after in pairwise(moments)][WARM_UP:]


def parts(steps: int) -> dict[str, Callable[[str, Callable[..., None]], object]]:
    """The pretrainings of the tiny road, each taking a precision and a callback."""
    road = load_road("tiny", [])
    studies = list(iter_phantom(PhantomConfig(num_patients=30)))
    conversations = [[(turn.question, turn.answer) for turn in study.turns] for study in studies]
    tokenizer = train_tokenizer(
        (text for said in conversations for pair in said for text in pair),
        road.model.language.vocab_size,
    )
    images = [image for study in studies for image in study.images]
    pixels = [image.data for image in images]
    masks = [image.mask for image in images]
    captions = [image.labels["caption"] for image in images]
    words = bag_of_words(tokenizer, captions)

    def at(config: PretrainConfig, precision: str) -> PretrainConfig:
        return config.model_copy(update={"steps": steps, "matmul_precision": precision})

    model, bootstrap = road.model, road.bootstrap
    return {
        "language": lambda precision, on_step: pretrain_language(
            conversations, tokenizer, model.language, at(bootstrap.language, precision), on_step
        ),
        "clip": lambda precision, on_step: pretrain_clip(
            pixels, captions, tokenizer, model.clip, at(bootstrap.clip, precision), on_step
        ),
        "sam": lambda precision, on_step: pretrain_sam(
            pixels,
            masks,
            model.sam,
            at(bootstrap.sam, precision),
            target_grid=model.clip.grid,
            words=words,
            on_step=on_step,
        ),
    }


if __name__ == "__main__":
    main()
