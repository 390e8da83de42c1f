"""How the small parts are pretrained: frozen pydantic models, one per part.

They stand apart from `llava_ultra.config`, because a training worker reads the model's
configuration and has no use for what was learned before it.
"""

from typing import Annotated

from pydantic import Field, model_validator

from llava_ultra.config import MatmulPrecision
from llava_ultra.objectives.pretraining.image_text import ImageTextObjective
from llava_ultra.objectives.pretraining.mlip import MlipObjective
from llava_ultra.perturbations.gallery import PerturbationConfig
from llava_ultra.towers.tower_config import ModelPart


class PretrainConfig(ModelPart):
    """How long and how fast a part is pretrained."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    max_examples: int = Field(default=20_000, ge=1)
    """Examples held in memory; the first ones are taken (an image at 192 px is 0.11 MB)."""
    matmul_precision: MatmulPrecision = "highest"
    seed: int = 0


class TowerPretrainConfig(PretrainConfig):
    """How a tower is pretrained, which sees another view of an image each time."""

    mirror: bool = False
    """Swap left and right in half of the views: not where the texts name a side."""
    perturbations: tuple[PerturbationConfig, ...] = ()
    """What else happens to an image before the tower sees it, in this order, drawn anew each time:
    see `llava_ultra.perturbations`."""


ClipObjectiveConfig = Annotated[
    ImageTextObjective | MlipObjective,
    Field(discriminator="type"),
]
"""What CLIP may be pretrained for. A new one is a module in `llava_ultra.objectives.pretraining`,
its class here, and an entry in `ClipPretrainConfig.objectives`."""


class ClipPretrainConfig(TowerPretrainConfig):
    """CLIP pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    objectives: tuple[ClipObjectiveConfig, ...] = (ImageTextObjective(),)
    """What it is pretrained for, summed in this order, each loss with its weight."""

    @model_validator(mode="after")
    def _check(self) -> "ClipPretrainConfig":
        names = [objective.type for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives {names} repeat a type; list each once")
        if not any(objective.weight for objective in self.objectives):
            raise ValueError(
                f"objectives {names} leave nothing to learn from; list one with a weight above 0, "
                "such as 'image_text'"
            )
        return self

    @property
    def active_objectives(self) -> tuple[ClipObjectiveConfig, ...]:
        """Those that are computed."""
        return tuple(each for each in self.objectives if each.weight)


class SamPretrainConfig(TowerPretrainConfig):
    """SAM pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    mask_levels: tuple[int, ...] = ()
    """Mask values that the encoder learns to outline by themselves, besides the whole lesion: the
    phantom marks calcium with 128."""
    blank_share: float = Field(default=1, ge=0, le=1)
    """Share of the images without a lesion that are used: in most studies they are the many."""
    word_weight: float = Field(default=0, ge=0)
    """Weight of naming the words of an image's caption beside outlining its lesion; 0 learns from
    masks alone, as SAM did."""


class LanguagePretrainConfig(PretrainConfig):
    """Language model pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    hint_tokens: int = Field(default=36, ge=0)
    """Most tokens of hints where the images' tokens will stand; 0 gives none."""
    hint_rate: float = Field(default=0.85, ge=0, le=1)
    """Share of the rows that get hints; the others keep what the words alone tell."""
    hint_own_rate: float = Field(default=0.5, ge=0, le=1)
    """Share of the hinted rows whose own answer is among the hints before they are cut to
    `hint_tokens`. Where the others say the same in other words (a left lobe, a left side), a small
    model learns to look only from such rows."""
    hint_noise: float = Field(default=0.3, ge=0)
    """Standard deviation of the noise on the hints, in units of the word vectors' own."""


class RolesConfig(PretrainConfig):
    """Training of the adapters of `llava_ultra.pretrain.roles`."""

    steps: int = Field(default=400, ge=1)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    own_prompt: bool = False
    """Whether each role reads the prompt with its own adapter, as in ALCD; else all get it as the
    whole's read it, and it is read once for three."""
