"""One case of `bench/train_step.py` in a process of its own, with the environment of any checkout.

It knows both builds: modules that moved are looked for under both names. What both compute on comes
from the folder that the parent wrote: batches of features and token ids. The weights follow from
their names, so that both builds start alike. The last line printed is one JSON object.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SMOLLM = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M's shape."""
CLIP_NORM, LEARNING_RATE = 1.0, 2e-3


def find(name: str, *modules: str) -> Any:  # noqa: ANN401 - whatever has that name
    """The object of that name in the first of the modules that this checkout has."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"no {name} in {modules}")


SAMPLINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"type": "adaptive"},
    "alike": {"type": "adaptive", "balance": 0},
    "first": {"type": "first"},
}
"""By name: as the presets have it; by the feature score alone, so that all questions of a study
pick the same image; and one whose pick is not learned."""


def build(
    case: str,
    language: Path | None,
    image_tokens: int,
    sampling: str,
    products: str = "float32",
) -> Any:  # noqa: ANN401 - LlavaUltra
    """The model of a case, ready to train as the instruct stage does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    load_road = find("load_road", "sonoray_jobs.road.config", "sonoray_jobs.road")
    config = load_road("evidence" if language is None else "tiny").model
    side = math.isqrt(image_tokens)
    clip = config.clip.model_copy(update={"image_size": 16 * side})
    sam = config.sam.model_copy(update={"image_size": 32 * side})
    config = config.model_copy(update={"clip": clip, "sam": sam})
    config = type(config).model_validate(config.model_dump() | {"sampling": SAMPLINGS[sampling]})
    add_lora = find("add_lora", "llava_ultra.language.lora", "llava_ultra.language")
    if case == "smollm":
        decoder: Any = LlamaForCausalLM(LlamaConfig(**SMOLLM))
        longer = config.language.model_copy(update={"context_length": 2048})
        config = config.model_copy(update={"language": longer})
    elif language is not None:
        load = find("load_language", "llava_ultra.language.decoder", "llava_ultra.language")
        decoder = load(language).model
    else:
        shape = find("llama_config", "llava_ultra.language.decoder", "llava_ultra.language")
        decoder = LlamaForCausalLM(shape(config.language, vocab_size=config.language.vocab_size))
    # a build that knows no other format is not told of one
    more = () if products == "float32" else (products,)
    model = find("LlavaUltra", "llava_ultra.model")(config, add_lora(decoder, config.lora), *more)
    fill(model, keep_decoder=language is not None and case != "smollm")
    for name, parameter in model.named_parameters():
        connector = name.split(".")[0] in ("fusion", "sampler")
        parameter.requires_grad = connector or ".lora_" in name
    return model.train()


@torch.no_grad()
def fill(model: nn.Module, *, keep_decoder: bool) -> None:
    """Weights that follow from their names, the same in both builds."""
    for name, parameter in model.named_parameters():
        same = name.replace("sampler.scores.", "sampler.")
        decoder = name.startswith("language_model.")
        if (
            parameter.ndim < 2
            or "lora_B" in name
            or (decoder and keep_decoder and "lora" not in name)
        ):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(same.encode()))
        deviation = 0.02 if decoder else (3 * parameter.shape[-1]) ** -0.5
        parameter.normal_(0, deviation, generator=generator)
    weight = model.language_model.get_input_embeddings().weight
    model.embedding_scale.copy_(weight.float().pow(2).mean().sqrt())


def read_batches(folder: Path) -> list[tuple[Any, Any]]:
    """The batches that the parent wrote, as this build's own."""
    from llava_ultra.batch import StudyFeatures, TextBatch, collate_features

    batches = []
    for path in sorted(folder.glob("batch-*.npz")):
        with np.load(path) as values:
            ends = np.cumsum(values["counts"])[:-1]
            pieces = zip(np.split(values["clip"], ends), np.split(values["sam"], ends), strict=True)
            visual = collate_features([StudyFeatures(clip=c, sam=s) for c, s in pieces])
            text = TextBatch(
                **{
                    name: torch.from_numpy(values[name])
                    for name in ("ids", "labels", "mask", "study_index")
                }
            )
        batches.append((visual, text))
    return batches


class Stepper:
    """One optimiser step after another, as the way says."""

    def __init__(self, model: Any, given: argparse.Namespace) -> None:  # noqa: ANN401 - LlavaUltra
        self.model, self.way = model, given.way
        self.learned = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=LEARNING_RATE, weight_decay=0.01)
        self.limits = None
        if given.micro_studies or given.way == "engine":
            limits = find("PartLimits", "llava_ultra.steps.micro_batches")
            self.limits = limits(studies=given.micro_studies)
        if given.checkpoint:
            find("checkpoint_activations", "llava_ultra.language.decoder")(
                model.language_model.get_base_model()
            )
        if given.way == "rows":  # each question reads its images by itself
            importlib.import_module("llava_ultra.model").shares_prefixes = lambda _: False  # type: ignore[attr-defined]
        if given.way == "engine":
            self.engine = self._engine()

    def _engine(self) -> Any:  # noqa: ANN401 - DeepSpeed's
        import os
        import tempfile

        import deepspeed

        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        store = f"file://{tempfile.mkdtemp()}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        engine, *_ = deepspeed.initialize(
            model=self.model,
            optimizer=self.optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_clipping": CLIP_NORM,
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 1_000_000_000,
            },
        )
        return engine

    def step(self, visual: Any, text: Any) -> float:  # noqa: ANN401 - this build's batches
        """One step; its loss."""
        if self.limits is None:
            output = self.model(visual, text)
            loss, value = output.loss, float(output.loss.detach())
        else:
            forward_share = find("forward_share", "llava_ultra.steps.accumulate")
            batch = find("Batch", "llava_ultra.batch")(visual=visual, text=text)
            run = self.engine if self.way == "engine" else None
            share = forward_share(self.model, batch, self.limits, run=run)
            loss, value = share.owed, share.losses["loss"]
        if self.way == "engine":
            self.engine.backward(loss)
            self.engine.step()
            return value
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, CLIP_NORM)
        self.optimizer.step()
        return value


def time_steps(stepper: Any, batches: list[tuple[Any, Any]], precision: str) -> dict[str, Any]:  # noqa: ANN401
    """Seconds and CPU seconds of each step, and the losses."""
    matmul_precision = find(
        "matmul_precision", "llava_ultra.parameters.precision", "llava_ultra.precision"
    )
    losses, walls, cpus = [], [], []
    for visual, text in batches:
        wall, cpu = time.perf_counter(), time.process_time()
        with matmul_precision(precision, "cpu"):
            losses.append(stepper.step(visual, text))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    answers = [len(text.ids) for _, text in batches]
    return {"losses": losses, "wall_s": walls, "cpu_s": cpus, "answers": answers}


def measure_memory(
    stepper: Stepper, batches: list[tuple[Any, Any]], counting: Path
) -> dict[str, Any]:
    """Bytes of tensors alive at once in a step, of the second one; weights are left out."""
    spec = importlib.util.spec_from_file_location("counting", counting)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stepper.step(*batches[0])
    stepper.optimizer.zero_grad()
    with module.LiveBytes(stepper.model) as memory:
        loss = stepper.step(*batches[1 % len(batches)])
    return {"peak_bytes": memory.peak, "loss": loss}


def padded_trainer(model: Any, batches: list[tuple[Any, Any]]) -> dict[str, Any]:  # noqa: ANN401
    """HF Trainer on padded rows: each question with its images, logits and labels everywhere."""
    import tempfile

    from transformers import Trainer, TrainerCallback, TrainingArguments

    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            marks.append((time.perf_counter(), time.process_time()))

        def on_train_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            marks.append((time.perf_counter(), time.process_time()))

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, clip: Any, sam: Any, ids: Any, labels: Any, mask: Any) -> dict[str, Any]:  # noqa: ANN401
            images = model.fuse(clip, sam)[:, 0] * model.embedding_scale  # the first image
            words = model.embed(ids)
            told = mask.new_ones(images.shape[:2])
            return {
                "loss": model.language_model(
                    inputs_embeds=torch.cat([words[:, :1], images, words[:, 1:]], dim=1),
                    attention_mask=torch.cat([mask[:, :1], told, mask[:, 1:]], dim=1).long(),
                    labels=torch.cat(
                        [labels[:, :1], labels.new_full(images.shape[:2], -100), labels[:, 1:]], 1
                    ),
                ).loss
            }

    rows, size = [], len(batches[0][1].ids)
    longest = max(text.ids.shape[1] for _, text in batches)
    for visual, text in batches:
        for row, study in enumerate(text.study_index.tolist()):
            pad = (0, longest - text.ids.shape[1])
            rows.append(
                {
                    "clip": visual.clip[study],
                    "sam": visual.sam[study],
                    "ids": nn.functional.pad(text.ids[row], pad),
                    "labels": nn.functional.pad(text.labels[row], pad, value=-100),
                    "mask": nn.functional.pad(text.mask[row], pad),
                }
            )
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=size,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    Trainer(model=Rows(), args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
    pairs = list(itertools.pairwise(marks))
    return {
        "wall_s": [b[0] - a[0] for a, b in pairs],
        "cpu_s": [b[1] - a[1] for a, b in pairs],
        "answers": [size] * len(pairs),
    }


def tower_memory() -> dict[str, Any]:
    """What one image of 1,024 px adds to the memory of a process that holds `paper`'s SAM."""
    config = find("load_road", "sonoray_jobs.road.config", "sonoray_jobs.road")("paper").model
    tower = find("SamTower", "llava_ultra.towers.sam", "llava_ultra.sam_tower")(
        config.sam, target_grid=config.clip.grid
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(0, 0.1, generator=generator)
    pixels = torch.randn(1, 3, 1024, 1024, generator=generator)
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # the peak so far is the build's
    before = status("VmRSS:")
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        features = tower(pixels)
    return {
        "peak_bytes": status("VmHWM:") - before,
        "wall_s": [time.perf_counter() - wall],
        "cpu_s": [time.process_time() - cpu],
        "mean": float(features.double().mean()),
        "deviation": float(features.double().std()),
    }


def status(field: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main() -> None:
    """Run the case and print what it gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=("evidence", "smollm", "sam"))
    parser.add_argument("--input", type=Path)
    parser.add_argument("--language", type=Path)
    parser.add_argument("--image-tokens", type=int, default=36)
    parser.add_argument("--way", choices=("plain", "rows", "engine", "trainer"), default="plain")
    parser.add_argument("--sampling", choices=SAMPLINGS, default="adaptive")
    parser.add_argument("--precision", default="medium", help="of float32 products")
    parser.add_argument("--products", default="float32", help="train.precision")
    parser.add_argument("--micro-studies", type=int, default=0)
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--memory", type=Path, help="module that counts bytes alive at once")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.case == "sam":
        print(json.dumps(tower_memory()))
        return
    model = build(given.case, given.language, given.image_tokens, given.sampling, given.products)
    batches = read_batches(given.input)
    torch.manual_seed(0)
    if given.way == "trainer":
        found = padded_trainer(model, batches)
    elif given.memory:
        found = measure_memory(Stepper(model, given), batches, given.memory)
    else:
        found = time_steps(Stepper(model, given), batches, given.precision)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
