"""The model card: what an exported model learned from, what it reaches, and where it fails.

It is written from what the road left (training, dataset, internal test) and holds no word that
somebody would have to fill in. It lies in the model's folder as `README.md`, where the pages of
models are looked for, beside `DATASET.md` (`dataset_card`). Nothing of a patient is in it: counts,
metrics with intervals, and questions that the record of the model holds as well.

`sonoray promote` asks for a card whose sections all stand (`lacking_sections`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_ultra.towers.mix.mix_config import FurtherTower
from sonoray.metrics.tables import Table

CARD = "README.md"
DATASET_CARD = "DATASET.md"

_PARTS, _TRAINING, _RESULTS, _USE, _LIMITS = (
    "What it is",
    "Training",
    "Results on its internal test",
    "How to use it",
    "Limits",
)
_SECTIONS = (_PARTS, _TRAINING, _RESULTS, _USE, _LIMITS)
NOT_EVALUATED = "It was exported before it was evaluated."


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSources:
    """Where a card comes from."""

    name: str
    """Of the registered model."""
    dataset: str
    """Name of the dataset that it was trained on."""
    num_training_patients: int
    run_id: str
    training: str
    """Name of the training."""
    settings: Mapping[str, Any]
    """Section `train` that it was trained with."""
    metrics: Mapping[str, float]
    """Of the last epoch."""
    evaluation: Path | None
    """Folder of the internal test; None where there was none."""
    tuned: Mapping[str, str] = field(default_factory=dict)
    """By tower that was tuned: the name of the tuning."""


def model_card(manifest: Mapping[str, Any], facts: Mapping[str, Any], sources: CardSources) -> str:
    """Write the card as Markdown.

    Args:
        manifest: of the exported model.
        facts: what its `record.json` holds.
        sources: what else is known of its making.
    """
    lines = [f"# {sources.name}", "", f"> {manifest['notice']}", ""]
    bodies = {
        _PARTS: _parts(manifest, sources.tuned),
        _TRAINING: _training(sources),
        _RESULTS: _results(sources.evaluation),
        _USE: _use(facts, sources),
        _LIMITS: _limits(facts),
    }
    for title, body in bodies.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def lacking_sections(text: str) -> list[str]:
    """Names of the sections that a card lacks, or leaves without what they are for."""
    lines = text.splitlines()
    lacking = [title for title in _SECTIONS if f"## {title}" not in lines]
    if NOT_EVALUATED in text and _RESULTS not in lacking:
        lacking.append(_RESULTS)
    return lacking


def _parts(manifest: Mapping[str, Any], tuned: Mapping[str, str]) -> Iterator[str]:
    config = manifest["config"]
    yield (
        "It answers questions about ultrasound studies of one or more images (LLaVA-Ultra: two "
        "frozen encoders, a fusion, a choice of images, a language model with adapters)."
    )
    yield ""
    sizes = {
        "clip": f"{config['clip']['image_size']} px",
        "sam": f"{config['sam']['image_size']} px",
        "language": f"context of {config['language']['context_length']} tokens",
        "connector": f"fusion {config['fusion']['type']}, sampling {config['sampling']['type']}",
        "adapter": f"{config['lora']['variant']}, rank {config['lora']['rank']}",
    }
    origins = {
        "clip": config["clip"]["weights"],
        "sam": config["sam"]["weights"],
        "language": config["language"]["source"],
    }
    for tower in map(FurtherTower.model_validate, config.get("towers", ())):
        sizes[tower.name] = f"{tower.encoder.image_size} px"
        origins[tower.name] = tower.encoder.weights
    rows = tuple(
        (
            part,
            sizes.get(part, "-"),
            # a path of the house that made it says nothing to others
            (Path(origins.get(part, "")).name or "trained here")
            + (f", tuned here (`{tuned[part]}`)" if part in tuned else ""),
            f"`{digest[:16]}`",
        )
        for part, digest in manifest["digests"].items()
    )
    yield from Table(header=("part", "size", "weights", "digest"), rows=rows).markdown()


def _training(sources: CardSources) -> Iterator[str]:
    yield (
        f"Dataset `{sources.dataset}` ({DATASET_CARD}), {sources.num_training_patients} training "
        f"patients; training `{sources.training}`, MLflow run `{sources.run_id}`."
    )
    yield ""
    rows = tuple(
        (
            stage["name"],
            str(stage["epochs"]),
            f"{stage['learning_rate']:g}",
            "yes" if stage["lora"] else "no",
        )
        for stage in sources.settings["stages"]
    )
    yield from Table(header=("stage", "epochs", "learning rate", "LoRA"), rows=rows).markdown()
    losses = [f"{name} {value:.4g}" for name, value in sources.metrics.items() if "loss" in name]
    if losses:
        yield ""
        yield f"At the end: {', '.join(losses)}."


def _results(evaluation: Path | None) -> Iterator[str]:
    if evaluation is None:
        yield NOT_EVALUATED
        return
    yield (
        "Patients of the test split, of whom nothing was learned. Intervals of 95 % over patients; "
        "the constant answer is the most frequent one of training."
    )
    for name in ("closed.md", "text.md"):
        lines = (evaluation / name).read_text(encoding="utf-8").splitlines()
        if sum(line.startswith("|") for line in lines) > 2:  # more than a header and its rule
            yield from ("", *lines)


def _use(facts: Mapping[str, Any], sources: CardSources) -> Iterator[str]:
    yield from ("```", f"sonoray serve --model models:/{sources.name}/VERSION", "```", "")
    topics: Mapping[str, Mapping[str, Any]] = facts["topics"]
    if not topics:
        yield "It was trained on no closed question that can be asked of any study."
        return
    yield "Closed questions that it was trained on, in the words of its training:"
    yield ""
    rows = tuple(
        (topic, known["question"], ", ".join(known["options"])) for topic, known in topics.items()
    )
    yield from Table(header=("topic", "question", "answers"), rows=rows).markdown()


def _limits(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "- For research. It is no medical device."
    yield (
        f"- It learned from {facts['num_training_patients']} patients of one dataset. What it "
        "reaches on others has to be measured: `sonoray validate`."
    )
    yield "- A closed answer is the likeliest of the options; the model cannot say that none fits."
    yield (
        "- A report may say what the images do not show, and may contradict the same model's "
        "closed answers. Nobody has read what it wrote for this card."
    )
