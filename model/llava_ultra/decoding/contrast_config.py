"""Settings of contrastive decoding. Torch stays out: a road's configuration is read without it."""

from typing import Literal

from pydantic import Field

from llava_ultra.towers.tower_config import ModelPart


class ContrastConfig(ModelPart):
    """How tokens of structured fields are chosen; see `llava_ultra.decoding.contrast`."""

    strength: float = Field(default=0.0, ge=0, le=4)
    """How much the roles count beside the whole (ALCD's a, 0.01 to 0.25 in its scripts); 0 decodes
    plainly, with the whole alone."""
    adaptive: bool = True
    """Whether a role counts by how far it is from the whole; else each counts fully."""
    plausibility: float = Field(default=0.1, ge=0, le=1)
    """A token below this share of the likeliest one's probability is not chosen."""
    plausible_to: Literal["every", "full"] = "every"
    """Who has to find a token plausible: each of the three roles, or the whole alone."""
