"""Configuration of LLaVA-Ultra: frozen pydantic models, one per part, unknown keys refused.

Variants are discriminated unions on `type`, so that an ablation is a change of one config line and
never of code. What the paper leaves open (see each docstring) is a field here, with our choice as
its default.
"""

from operator import not_
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.distillation import DistillationObjective
from llava_ultra.objectives.grounding import GroundingObjective
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.objectives.objective import Need, StepObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.towers.mix.mix_config import OWN_TOWERS, FurtherTower
from llava_ultra.towers.tower_config import ClipConfig as ClipConfig
from llava_ultra.towers.tower_config import IntensityName as IntensityName
from llava_ultra.towers.tower_config import ModelPart
from llava_ultra.towers.tower_config import SamConfig as SamConfig


class BlendFusion(ModelPart):
    """LLaVA-Ultra's fusion (arXiv 2410.15074): `a * P1(F1) + (1 - a) * P2(F2)`, a learned."""

    type: Literal["blend"] = "blend"
    alpha: Literal["scalar", "channel", "token"] = "scalar"
    """What one alpha belongs to. The paper does not say; a scalar is the plainest reading."""
    alpha_init: float = Field(default=0.5, gt=0, lt=1)
    """Start value; alpha is the sigmoid of a free parameter and stays inside (0, 1)."""


class MixFusion(ModelPart):
    """What the fusions have in common that read any number of towers."""

    towers: tuple[str, ...] = Field(default=(), exclude_if=not_)
    """Which towers are read, in this order; empty reads `clip`, `sam` and all of `model.towers`.
    An ablation needs no other features: what is not read stays in the store."""


class ConcatFusion(MixFusion):
    """Eagle's fusion (arXiv 2408.15998): channel concatenation, then one projector."""

    type: Literal["concat"] = "concat"


class AppendFusion(MixFusion):
    """Sequence append, as Eagle (arXiv 2408.15998) compares it: a projector each, then in a row.

    The decoder reads the tokens of all towers, each on a grid of its own.
    """

    type: Literal["append"] = "append"


class LayerMergeFusion(MixFusion):
    """COMM's fusion (arXiv 2310.08825): a learned sum over layers, then all streams in one.

    It merges the `feature_layers` of CLIP and, where they are given, those of the others. One layer
    is allowed, since an ablation counts down to it, but it has to be named.
    """

    type: Literal["layer_merge"] = "layer_merge"


class ClipOnlyFusion(ModelPart):
    """The CLIP stream alone."""

    type: Literal["clip_only"] = "clip_only"


class SamOnlyFusion(ModelPart):
    """The SAM stream alone."""

    type: Literal["sam_only"] = "sam_only"


FusionConfig = Annotated[
    BlendFusion | ConcatFusion | AppendFusion | LayerMergeFusion | ClipOnlyFusion | SamOnlyFusion,
    Field(discriminator="type"),
]


class AdaptiveSampling(ModelPart):
    """Weighted scores over a study's images, distilled, then the best `num_selected`.

    The paper (arXiv 2410.15074) names a feature score, an attention score, their weighting and a
    distillation; the equations could not be found. Ours stand in `llava_ultra.connector.scores` and
    `pick`; what teaches the scores are the objectives `distillation` and `grounding`.
    """

    type: Literal["adaptive"] = "adaptive"
    num_selected: int = Field(default=1, ge=1)
    """Images kept per study (m)."""
    balance: float = Field(default=0.8, ge=0, le=1)
    """Weight of the attention score against the feature score while training."""
    word_weights: Literal["information", "equal"] = "information"
    """What a word counts in the attention score: by how sure its attention is of an image, or all
    the same."""
    training_rule: Literal["straight_through", "weighted"] = "straight_through"
    """Straight-through picks as inference does and passes gradients through the soft weights;
    weighted hands the language model the weighted mean of all images."""
    inference_score: Literal["feature", "attention", "balanced"] = "feature"
    """Which score picks when there is no answer yet. `feature` needs no text at all."""


class KeepAllSampling(ModelPart):
    """Every image of the study goes to the language model."""

    type: Literal["keep_all"] = "keep_all"


class FirstSampling(ModelPart):
    """The first `num_selected` images, in the study's order."""

    type: Literal["first"] = "first"
    num_selected: int = Field(default=1, ge=1)


class RandomSampling(ModelPart):
    """`num_selected` images at random: the floor that every sampler has to beat."""

    type: Literal["random"] = "random"
    num_selected: int = Field(default=1, ge=1)


SamplingConfig = Annotated[
    AdaptiveSampling | KeepAllSampling | FirstSampling | RandomSampling,
    Field(discriminator="type"),
]


def images_kept(config: SamplingConfig, images: int) -> int:
    """Images (M) of a study of K that the decoder gets to read."""
    return images if isinstance(config, KeepAllSampling) else min(config.num_selected, images)


ObjectiveConfig = Annotated[
    AnswerObjective
    | DistillationObjective
    | GroundingObjective
    | RecognitionObjective
    | LaverObjective,
    Field(discriminator="type"),
]
"""The losses there are. A new one is a module in `llava_ultra.objectives`, its class here, and an
entry in `ModelConfig.objectives` (or in a `--set` of it), else it is not trained."""


class LanguageConfig(ModelPart):
    """A decoder-only language model: a folder or hub id, or a small Llama of our own."""

    source: str = ""
    """A folder or hub id for `AutoModelForCausalLM`, a .gguf file, or `package:NAME`, the GGUF file
    in an installed package; copied once by `bootstrap`. Of the fields below, only `context_length`
    counts then. Empty trains the small Llama below."""
    vocab_size: int = Field(default=1500, ge=300)
    """Upper bound for the tokenizer that is trained with the small Llama."""
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 384
    tie_embeddings: bool = True
    """Whether the output layer shares the token embeddings' weights, as small models do."""
    context_length: int = Field(default=512, ge=64)
    """Most tokens of image, question and answer together."""
    shape: dict[str, str | bool | int | float] = Field(default_factory=dict)
    """Of `source`'s `config.json` what decides its size, `model_type` first: `sonoray describe`
    counts by it where `source` is not here, and `bootstrap` refuses a model of another shape."""

    @model_validator(mode="after")
    def _check(self) -> "LanguageConfig":
        if not self.source and self.hidden_size % (2 * self.num_heads):  # rotary pairs of channels
            raise ValueError(
                f"language.hidden_size {self.hidden_size} is no multiple of twice the num_heads "
                f"{self.num_heads}"
            )
        if self.shape and not (self.source and "model_type" in self.shape):
            raise ValueError(
                "language.shape tells of a model that language.source names, by its model_type and "
                "other keys of its config.json; give both, or leave it out"
            )
        return self


class LoraSettings(ModelPart):
    """Low-rank adapters on the language model's linear layers."""

    variant: Literal["lora", "rslora", "dora"] = "lora"
    """`rslora` scales by alpha / sqrt(rank) in place of alpha / rank (arXiv 2312.03732); `dora`
    learns each output's magnitude apart from its direction (arXiv 2402.09353)."""
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of linear layers, or the last parts of their paths; each must match one."""
    exclude_modules: tuple[str, ...] = ()
    """Modules that get no adapter, with all that is below them, though they match: the towers that
    a language model of others brings along; each must spare a layer."""


class ModelConfig(ModelPart):
    """All of LLaVA-Ultra."""

    clip: ClipConfig = ClipConfig()
    sam: SamConfig = SamConfig()
    towers: tuple[FurtherTower, ...] = Field(default=(), exclude_if=not_)
    """Further towers beside CLIP and SAM, each of published weights; `concat`, `append` and
    `layer_merge` read them."""
    fusion: FusionConfig = BlendFusion()
    sampling: SamplingConfig = AdaptiveSampling()
    language: LanguageConfig = LanguageConfig()
    lora: LoraSettings = LoraSettings()
    objectives: tuple[ObjectiveConfig, ...] = (
        AnswerObjective(),
        DistillationObjective(),
        GroundingObjective(),
    )
    """What is trained for, summed in this order, each loss with its weight. An objective that is
    not listed, or has weight 0, is not computed; so are those that need a learned score where the
    sampling has none."""
    projector_hidden: int = Field(default=256, ge=1)
    """Hidden width of the projectors' two-layer MLPs."""

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.sam.grid % self.clip.grid:
            raise ValueError(
                f"the SAM grid {self.sam.grid} is no multiple of the CLIP grid {self.clip.grid}; "
                "choose image and patch sizes so that pixel-unshuffle can bring them together"
            )
        if isinstance(self.fusion, LayerMergeFusion) and not self.clip.feature_layers:
            raise ValueError(
                "fusion.type 'layer_merge' has no layers to merge; name them in clip.feature_layers"
            )
        self._check_mix()
        names = [objective.type for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives {names} repeat a type; list each once")
        if not self.active_objectives:
            raise ValueError(
                f"objectives {names} leave nothing to learn from with sampling.type "
                f"{self.sampling.type!r}; list one with a weight above 0, such as 'answer'"
            )
        return self

    def _check_mix(self) -> None:
        """Refuse towers of one name, and a fusion that reads what is not there or does not fit."""
        names = [tower.name for tower in self.towers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"model.towers has {twice[0]!r} twice; give each tower its own name")
        read = self.read_towers
        for name in read:
            if name not in self.tower_shapes:
                raise ValueError(
                    f"fusion.towers names {name!r}, which is no tower of this model; there are "
                    f"{', '.join(self.tower_shapes)} (more in model.towers)"
                )
        if len(set(read)) < len(read):
            raise ValueError(f"fusion.towers {list(read)} names a tower twice; name each once")
        if isinstance(self.fusion, AppendFusion):
            return
        grids = {tower.name: self.grid_of(tower) for tower in self.towers}
        for name in read:
            if grids.get(name, self.clip.grid) != self.clip.grid:
                raise ValueError(
                    f"tower {name!r} is stored on a grid of {grids[name]}, fusion.type "
                    f"{self.fusion.type!r} reads that of CLIP, {self.clip.grid}; leave target_grid "
                    "out, or use fusion.type 'append'"
                )

    @property
    def read_towers(self) -> tuple[str, ...]:
        """Names of the towers that the fusion reads, in its order."""
        match self.fusion:
            case MixFusion(towers=()):
                return (*OWN_TOWERS, *(tower.name for tower in self.towers))
            case MixFusion(towers=chosen):
                return chosen
            case ClipOnlyFusion():
                return ("clip",)
            case SamOnlyFusion():
                return ("sam",)
        return OWN_TOWERS

    def grid_of(self, tower: FurtherTower) -> int:
        """Side of the grid that a further tower's features are stored on."""
        return tower.target_grid or self.clip.grid

    @property
    def tower_shapes(self) -> dict[str, tuple[int, int]]:
        """By tower, tokens and channels of an image's features as they are stored."""
        own = {
            "clip": (self.clip.num_tokens, self.clip.num_channels),
            "sam": (self.clip.grid**2, self.sam_channels),
        }
        grids = {tower.name: self.grid_of(tower) for tower in self.towers}
        return own | {
            tower.name: (grids[tower.name] ** 2, tower.num_channels(grids[tower.name]))
            for tower in self.towers
        }

    @property
    def active_objectives(self) -> tuple[ObjectiveConfig, ...]:
        """The objectives that are computed: with a weight, and all they need.

        Those that need `adapters` rest in stages in which these do.
        """
        provided: set[Need] = {"answers", "adapters"}
        if isinstance(self.sampling, AdaptiveSampling):
            provided.add("scores")
        return tuple(each for each in self.objectives if each.weight and each.needs <= provided)

    @property
    def recognition(self) -> RecognitionObjective | None:
        """The recognition objective, where it is trained for."""
        found = [each for each in self.active_objectives if isinstance(each, RecognitionObjective)]
        return found[0] if found else None

    @property
    def step_objectives(self) -> tuple[StepObjective, ...]:
        """Those of the active objectives that compare all rows of a step with each other."""
        return tuple(each for each in self.active_objectives if isinstance(each, StepObjective))

    @property
    def num_tokens(self) -> int:
        """Fused tokens per image (P)."""
        if not isinstance(self.fusion, AppendFusion):
            return self.clip.num_tokens
        shapes = self.tower_shapes
        # beside CLIP's class token the others have the mean of theirs
        means = self.clip.class_token * sum(name != "clip" for name in self.read_towers)
        return sum(shapes[name][0] for name in self.read_towers) + means

    @property
    def sam_channels(self) -> int:
        """Channels of a SAM token after pixel-unshuffle (C2)."""
        return self.sam.num_channels * (self.sam.grid // self.clip.grid) ** 2


MatmulPrecision = Literal["highest", "high", "medium"]
"""See `llava_ultra.parameters.precision`."""
