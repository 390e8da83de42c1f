"""Which feature stores belong to a road: root, fingerprint and shape of each tower's.

Pure look-ups for every job that reads or fills features; `sonoray.features.store` is what they
open.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.features.store import FeatureStore

if TYPE_CHECKING:
    from llava_ultra.config import ModelConfig
    from sonoray.stages import StageOutput
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig
    from sonoray_jobs.road.embed_config import EmbedConfig

TOWERS = ("clip", "sam")
"""Towers that every model has."""


def features_root(workspace: "Workspace", road: "RoadConfig") -> str:
    """What holds the stores of all towers: a folder, or the URI of an object store."""
    return road.embed.store or str(workspace.features)


def tower_fingerprints(parts: Mapping[str, "StageOutput"]) -> dict[str, str]:
    """Fingerprint of each tower among the bootstrapped parts."""
    return {
        tower: parts[tower].manifest["summary"]["fingerprint"] for tower in tower_folders(parts)
    }


def tower_folders(parts: Mapping[str, "StageOutput"]) -> dict[str, Path]:
    """Folder of each tower among the bootstrapped parts: CLIP, SAM, then further ones."""
    further = [part for part in parts if part not in ("language", *TOWERS)]
    return {tower: parts[tower].path for tower in (*TOWERS, *further)}


def stores_of(
    root: Path | str,
    model: "ModelConfig",
    embed: "EmbedConfig",
    fingerprints: Mapping[str, str],
) -> dict[str, FeatureStore]:
    """Open the stores of the towers with these fingerprints, in the model's shapes.

    Args:
        root: what holds the stores of all towers.
        model: of what shapes the features are.
        embed: the format of their values, and what the towers multiply in.
        fingerprints: by tower.
    """
    shapes = model.tower_shapes
    return {
        tower: FeatureStore(
            root,
            fingerprint,
            num_tokens=shapes[tower][0],
            num_channels=shapes[tower][1],
            kept_as=embed.dtype,
            computed_in=embed.precision,
        )
        for tower, fingerprint in fingerprints.items()
    }


def read_image_ids(folder: Path) -> list[str]:
    """Ids of a dataset's unique images, in the table's order."""
    import pyarrow.dataset as ds

    ids: list[str] = ds.dataset(folder / "images").to_table(columns=["image_id"])[0].to_pylist()
    return ids
