"""How far a training has come: the part of a checkpoint that is no tensor.

Randomness needs no state: the order of the studies, their turns and the seed of a step are
functions of the training's seed, the epoch and the step's number.
"""

from pydantic import Field

from sonoray.config.canonical import content_hash
from sonoray.config.model import Config

POSITION = "position.json"
"""File of a checkpoint that holds it; written last, it says that the checkpoint is complete."""


class Position(Config):
    """How far a training has come."""

    stage: int = Field(ge=0)
    """Index of the stage."""
    epochs: int = Field(ge=0)
    """Epochs of this stage that are done."""
    steps: int = Field(ge=0)
    """Steps of this stage that are done, the skipped ones among them."""
    digests: dict[str, str]
    """Of the frozen language model and both towers."""
    steps_per_epoch: int = Field(default=0, ge=0)
    """Of this stage."""
    skipped: int = Field(default=0, ge=0)
    """Steps of this stage that changed nothing, because a loss or gradient was not finite."""
    sums: dict[str, float] = Field(default_factory=dict)
    """By loss: the sum over the answers of the epoch that is not over yet."""
    answers: float = Field(default=0, ge=0)
    """Answers in `sums`."""
    validation_loss: float | None = None
    """Of this very step; None where it was not validated."""
    best_loss: float | None = None
    """Lowest validation loss of this stage so far."""
    stale: int = Field(default=0, ge=0)
    """Validations since then."""
    stopped: bool = False
    """Whether the stage ended here, before its last step."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The newest value of all that was reported."""
    reported: dict[str, float] = Field(default_factory=dict)
    """The last report. It may have been lost with the worker, so that whoever goes on tells it
    again."""
    files: dict[str, str] = Field(default_factory=dict)
    """Sha256 of the checkpoint's other files, by name."""
    seal: str = ""
    """Sha256 of all of the above as canonical JSON."""

    def sealed(self) -> "Position":
        """The same with its seal."""
        return self.model_copy(update={"seal": self._seal()})

    @property
    def is_sealed(self) -> bool:
        """Whether it is what was sealed."""
        return self.seal == self._seal()

    def _seal(self) -> str:
        return content_hash(self.model_dump(mode="json", exclude={"seal"}))
