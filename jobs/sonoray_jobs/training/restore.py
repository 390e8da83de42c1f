"""A finished training, put together again: the model that evaluation answers with and export ships.

The checkpoint holds only what was trained; the language model comes from its bootstrap stage, and
the digests that the checkpoint recorded of the frozen parts are checked against it.
"""

from dataclasses import dataclass
from pathlib import Path

from llava_ultra.language.decoder import Language, load_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from sonoray.errors import CheckpointError
from sonoray.workspace import Workspace
from sonoray_jobs.outputs import Trained, find_parts
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.stores import tower_fingerprints
from sonoray_jobs.training.checkpoint import load_weights, read_position


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedParts:
    """Where the parts of a trained model lie; plain values for Ray workers."""

    road: RoadConfig
    checkpoint: Path
    language: Path
    fingerprints: dict[str, str]
    """Of the towers whose features it was trained on, by name."""


def locate(workspace: Workspace, road: RoadConfig, dataset: str, trained: Trained) -> TrainedParts:
    """Where the parts of a finished training lie."""
    parts = find_parts(workspace, road, dataset)
    return TrainedParts(
        road=road,
        checkpoint=trained.checkpoint,
        language=parts["language"].path,
        fingerprints=tower_fingerprints(parts),
    )


def load_trained(parts: TrainedParts) -> tuple[LlavaUltra, Language]:
    """Load a trained model and the language side (whose decoder is inside the model).

    Raises:
        CheckpointError: the frozen parts are not those that it was trained over.
        ValueError: a part is missing or damaged.
    """
    language = load_language(parts.language)
    found = {"language": language.digest, **parts.fingerprints}
    for part, digest in read_position(parts.checkpoint).digests.items():
        if found.get(part) != digest:
            raise CheckpointError(
                f"checkpoint {str(parts.checkpoint)!r} was trained over {part} {digest[:16]}, here "
                f"it is {found.get(part, 'missing')[:16]}; bootstrap and train again"
            )
    model = LlavaUltra(parts.road.model, add_lora(language.model, parts.road.model.lora))
    load_weights(model, parts.checkpoint)
    model.eval()
    return model, language
