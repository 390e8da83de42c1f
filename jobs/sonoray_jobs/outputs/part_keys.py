"""What each bootstrapped part is a function of: the stages of language model, SAM and CLIP.

A tower that is trained here has two: one that trains it and one that reads it out (`readout`). A
tower that was tuned (`bootstrap.tuned`) is read out of its tuning.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_ultra.language.gguf_file import PACKAGE, gguf_path
from llava_ultra.recognition.bank_file import load_bank
from sonoray.config.canonical import content_hash
from sonoray.digests.content import content_digest
from sonoray.stages import Stage, StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.data.leakage import check_unseen
from sonoray_jobs.outputs.further_tower import further_tower
from sonoray_jobs.outputs.layers import READOUT
from sonoray_jobs.outputs.tuned.tuning_taken import readout_of, tuned_towers, tuning_of
from sonoray_jobs.road.config import RoadConfig

PARTS = ("language", "sam", "clip")
"""What every model stands on."""

_LEARNING = {part: f"sonoray_jobs.towers.learn_{part}" for part in PARTS}
"""Entry module of the code that makes each part."""
_READING = "sonoray_jobs.outputs.layers"
_FURTHER = "sonoray_jobs.outputs.further_tower"
_TUNED = "sonoray_jobs.outputs.tuned.tuned_tower"


def parts_of(road: RoadConfig) -> tuple[str, ...]:
    """Names of all parts of a road's model: `PARTS` and its further towers."""
    return (*PARTS, *(tower.name for tower in road.model.towers))


def learned_from(workspace: Workspace, road: RoadConfig, dataset: str) -> StageOutput:
    """The dataset that the parts learn from: `bootstrap.dataset`, or the one that is trained on.

    Raises:
        DataError: one of both is missing, or one's training patients are judged in the other.
    """
    learned = road.bootstrap.dataset or dataset
    if learned != dataset:
        check_unseen(workspace, learned=learned, judged=dataset)
    return workspace.dataset(learned)


def stage_of(part: str, road: RoadConfig, dataset: StageOutput) -> Stage:
    """The stage that makes `part`: of a tower that is trained here, the one that reads it out.

    Raises:
        DataError: the tuning that it is read out of is gone.
    """
    if part in tuned_towers(road, dataset.path.parent):
        return _tuned_stage(part, road, dataset)
    if not is_trained_tower(part, road):
        return learning_of(part, road, dataset)
    config = getattr(road.model, part).model_dump(mode="json", include=READOUT[part])
    if part == "sam":
        config["target_grid"] = road.model.clip.grid
    return Stage(
        name=f"bootstrap-{part}",
        config=config,
        inputs=[learning_of(part, road, dataset).key],
        code=[_READING],
    )


def learning_of(part: str, road: RoadConfig, dataset: StageOutput) -> Stage:
    """The stage that trains `part` on the dataset's training split, or adopts it."""
    model = road.model
    if part not in PARTS:
        return _further_stage(part, road, dataset)
    is_trained = is_trained_tower(part, road)
    readout = READOUT[part] if is_trained else None
    told = {"shape"} if part == "language" else None  # it makes nothing, and is checked
    values = getattr(model, part).model_dump(mode="json", exclude=readout or told)
    origin = "source" if part == "language" else "weights"
    values[origin] = _content_of(values[origin], dataset)
    config: dict[str, Any] = {
        "model": values,
        "pretrain": getattr(road.bootstrap, part).model_dump(mode="json"),
    }
    if part == "language" and is_made_here(road) and road.train.closed_first:
        config["closed_first"] = True
    if part == "clip" or (part == "sam" and road.bootstrap.sam.word_weight):
        source = _content_of(model.language.source, dataset)
        config["tokenizer"] = source or model.language.vocab_size
    if part == "sam" and not is_trained:
        config["target_grid"] = model.clip.grid
    if part == "clip" and is_trained and (banks := _banks_of(road)):
        config["banks"] = banks
    if road.train.hold_out:
        config["hold_out"] = road.train.model_dump(mode="json")["hold_out"]
    return Stage(
        name=f"{'pretrain' if is_trained else 'bootstrap'}-{part}",
        config=config,
        inputs=[dataset.key],
        code=[_LEARNING[part]],
    )


def _further_stage(name: str, road: RoadConfig, dataset: StageOutput) -> Stage:
    """The stage that adopts a further tower."""
    tower = further_tower(road, name)
    values = tower.encoder.model_dump(mode="json")
    values["weights"] = _content_of(values["weights"], dataset)
    config: dict[str, Any] = {tower.kind: values, "target_grid": road.model.grid_of(tower)}
    if road.train.hold_out:  # its channels are standardised on the images of training patients
        config["hold_out"] = road.train.model_dump(mode="json")["hold_out"]
    return Stage(name=f"bootstrap-{name}", config=config, inputs=[dataset.key], code=[_FURTHER])


def _tuned_stage(part: str, road: RoadConfig, dataset: StageOutput) -> Stage:
    """The stage that reads a tower out of a tuning."""
    return Stage(
        name=f"bootstrap-{part}",
        config=readout_of(part, road),
        inputs=[tuning_of(road, dataset.path.parent).key],
        code=[_TUNED],
    )


def _banks_of(road: RoadConfig) -> list[str]:
    """What the class banks hold that CLIP is pretrained with, as digests.

    Raises:
        ValueError: one cannot be read.
    """
    named = [getattr(each, "bank", "") for each in road.bootstrap.clip.active_objectives]
    return [content_hash(load_bank(bank).model_dump(mode="json")) for bank in named if bank]


def is_trained_tower(part: str, road: RoadConfig) -> bool:
    """Whether `part` is a tower that is trained here, and read out by a stage of its own."""
    return part in READOUT and not getattr(road.model, part).weights


def is_made_here(road: RoadConfig) -> bool:
    """Whether the language model is trained on the studies' texts, as they are trained on later."""
    return not road.model.language.source


def _content_of(origin: str, dataset: StageOutput) -> str:
    """The digest of a file or folder of the user's; what a hub or open_clip names stays a name."""
    memory = dataset.path.parent / ".contents"
    if not origin:
        return ""
    if origin.startswith(PACKAGE):
        path = Path(origin)  # of a package that is gone; the parts may have been made before
        with suppress(ValueError):
            path = gguf_path(origin) or path
        return content_digest(path, memory, known_as=origin) or origin
    return content_digest(Path(origin), memory) or origin
