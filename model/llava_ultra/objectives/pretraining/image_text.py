"""CLIP's own objective: each image must find its caption, and each caption its image."""

from typing import TYPE_CHECKING, Literal

from llava_ultra.objectives.pretraining.tower_objective import (
    TowerBatch,
    TowerObjective,
    TowerStates,
)

if TYPE_CHECKING:
    from torch import Tensor


class ImageTextObjective(TowerObjective):
    """InfoNCE of images and captions."""

    type: Literal["image_text"] = "image_text"

    def loss(self, batch: TowerBatch, states: TowerStates) -> "Tensor":
        """InfoNCE ()."""
        from llava_ultra.recognition.losses import info_nce

        return info_nce(states.scale * states.images @ states.texts.T)
