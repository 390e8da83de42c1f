"""Settings of the student. Torch stays out: a road's configuration is read without it."""

from pydantic import Field

from llava_ultra.towers.tower_config import ModelPart


class StudentConfig(ModelPart):
    """How a student learns from a model (LEADER, arXiv 2402.02803, gave the idea of the states).

    LEADER adds to the loss of the true answers the distance between the student's last but one
    layer, through a linear map, and the language model's state. The share 0.4 is its own; all else
    is our choice.
    """

    hidden: int = Field(default=128, ge=1)
    """Width of its layers."""
    truth: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy with the true answers."""
    probabilities: float = Field(default=1.0, ge=0)
    """Weight of the divergence from the model's probabilities of the options."""
    temperature: float = Field(default=2.0, gt=0)
    """At which these probabilities are compared."""
    states: float = Field(default=0.4, ge=0)
    """Weight of the squared distance from the decoder's states in front of its answers."""
    images: float = Field(default=0.1, ge=0)
    """Weight of the divergence from the sampler's scores of a study's images."""
    epochs: int = Field(default=60, ge=1)
    """Most rounds over the training studies; how many are best is found on a fifth of the
    patients."""
    studies_per_step: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    noise: float = Field(default=0.5, ge=0)
    """Standard deviation of what is added to its standardised features while it learns."""
    seed: int = 0
    budget: float = Field(default=0.02, ge=0, le=1)
    """By how much the accuracy over all closed questions may fall where a router gives the student
    those of which it is sure, and the model the others."""
