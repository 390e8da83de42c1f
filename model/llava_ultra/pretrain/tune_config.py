"""How towers are tuned through a trained model.

It stands apart from `pretrain_config`, which is part of the key of every pretrained tower.
"""

from pydantic import Field

from llava_ultra.config import ModelConfig
from llava_ultra.pretrain.pretrain_config import PretrainConfig


class TuneConfig(PretrainConfig):
    """Tuning of the towers (`llava_ultra.pretrain.tuning`)."""

    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Studies of a step, with all their images."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of the towers, and of what the last stage of training teaches, which learns along."""
    max_examples: int = Field(default=20_000, ge=1)
    """Most studies that are gone through, the first of the dataset."""
    towers: tuple[str, ...] = ()
    """Those that learn, as in ["clip"]; empty takes all that the model's fusion reads."""
    turns: int = Field(default=4, ge=0)
    """Questions asked of a study in a step, in a cycle through all it has; 0 asks all."""
    images_at_once: int = Field(default=0, ge=0)
    """Most images whose activations a tower keeps: those of the others it computes anew in the
    backward pass, for about a third more time. 0 keeps all of a step."""
    cpus: float = Field(default=1, gt=0)
    """Logical CPUs, and threads."""
    gpus: float = Field(default=0, ge=0)
    """At most one is used."""


def learning_towers(model: ModelConfig, config: TuneConfig) -> tuple[str, ...]:
    """Which towers learn: those that are named, or all that the fusion reads.

    Raises:
        ValueError: one that is named is not read, so that nothing would reach it.
    """
    read = model.read_towers
    if unread := sorted(set(config.towers).difference(read)):
        raise ValueError(
            f"tune.towers {', '.join(unread)} are not read by model.fusion.type "
            f"{model.fusion.type!r}; name some of {', '.join(read)}"
        )
    return config.towers or tuple(read)
