"""Configuration of LLaVA-Ultra: frozen pydantic models, one per part, unknown keys refused.

Variants are discriminated unions on `type`, so that an ablation is a change of one config line and
never of code. What the paper leaves open (see each docstring) is a field here, with our choice as
its default.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelPart(BaseModel):
    """Base of the model's configuration classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ChannelStatistics = tuple[float, float, float]
"""One value for red, green and blue, for pixels in 0..1."""


class ClipConfig(ModelPart):
    """An open_clip model; its image tower gives global semantics."""

    source: str = ""
    """Architecture of open_clip by name (`ViT-L-14-336-quickgelu`), whose image tower is read with
    `weights`; patch size, width and layers are then its own, and `image_size` where it is not
    given. Empty trains the small CLIP below."""
    weights: str = ""
    """A .safetensors, .pt or .pth file, or one of open_clip's pretrained tags for `source`, copied
    once by `bootstrap`."""
    image_size: int = Field(default=96, ge=16)
    """Side of the square input, pixels."""
    patch_size: int = Field(default=16, ge=4)
    width: int = Field(default=96, ge=16)
    layers: int = Field(default=3, ge=2)
    head_width: int = 32
    embed_dim: int = 96
    """Width of the joint image-text space."""
    text_width: int = 96
    text_layers: int = 1
    context_length: int = 40
    """Text tokens; longer captions are cut."""
    pool: Literal["avg", "tok"] = "avg"
    """How the image side is pooled for the contrast: `tok` is OpenAI's class token; `avg`, the mean
    over patches, teaches the patch tokens themselves, which are what the road reads."""
    feature_layer: int = -2
    """Block whose output is read; -2 is the penultimate one, as in LLaVA."""
    feature_layers: tuple[int, ...] = ()
    """Several blocks, from the first to the last, read side by side as channels: what `layer_merge`
    merges. Empty reads `feature_layer` alone."""
    class_token: bool = False
    """Whether CLIP's class token stands in front of the patches. SAM has none: there the mean of
    its tokens takes that place, so that both streams keep the same P."""
    pixel_mean: ChannelStatistics | None = None
    """What is taken from the pixels; empty takes that of the weights, or B-mode's where the tower
    is trained here."""
    pixel_std: ChannelStatistics | None = None
    """What the pixels are then divided by; empty as above."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens per image (P)."""
        return self.grid**2 + self.class_token

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Blocks that are read, counted from 0."""
        layers = self.feature_layers or (self.feature_layer,)
        return tuple(layer % self.layers for layer in layers)

    @property
    def num_channels(self) -> int:
        """Channels per token (C1), all layers together."""
        return self.width * len(self.read_layers)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:  # noqa: ANN401 - whatever a caller gives
        if not isinstance(values, dict) or not values.get("source"):
            return values
        shape = _architecture(values["source"])
        if missing := [name for name in _SHAPE if name not in {**shape, **values}]:
            raise ValueError(
                f"open_clip does not say the {', '.join(missing)} of {values['source']!r}; "
                "give them under clip"
            )
        for name in set(shape) - {"image_size"}:
            if values.get(name, shape[name]) != shape[name]:
                raise ValueError(
                    f"clip.{name} {values[name]} is not that of {values['source']!r}, "
                    f"{shape[name]}; leave it out"
                )
        return {**shape, **values}

    @model_validator(mode="after")
    def _check(self) -> "ClipConfig":
        if bool(self.source) != bool(self.weights):
            raise ValueError(
                f"clip.source is {self.source!r} and clip.weights {self.weights!r}; an "
                "architecture and its weights go together: give both or neither"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"clip.image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.head_width:
            raise ValueError(
                f"clip.width {self.width} is no multiple of head_width {self.head_width}"
            )
        if not -self.layers <= self.feature_layer < self.layers:
            raise ValueError(
                f"clip.feature_layer {self.feature_layer} is outside the {self.layers} layers"
            )
        if not self.source and self.text_width % self.head_width:
            raise ValueError(
                f"clip.text_width {self.text_width} is no multiple of head_width {self.head_width}"
            )
        _check_layers("clip.feature_layers", self.feature_layers, self.layers)
        _check_statistics("clip", self.pixel_mean, self.pixel_std)
        return self


class SamConfig(ModelPart):
    """A segment_anything image encoder; its features keep fine detail."""

    weights: str = ""
    """A .safetensors, .pt or .pth file with SAM's weights as Meta or transformers name them, copied
    once by `bootstrap`; the fields below must be those of its encoder. Empty trains them."""
    image_size: int = Field(default=192, ge=32)
    """Side of the square input, pixels."""
    patch_size: int = Field(default=16, ge=4)
    width: int = Field(default=96, ge=16)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=3, ge=1)
    out_channels: int = 32
    """Channels after the neck (256 in the published SAM)."""
    window_size: int = 0
    """Side of the attention windows, patches; 0 attends globally."""
    global_layers: tuple[int, ...] = ()
    """Blocks that attend globally where `window_size` is not 0."""
    feature_layers: tuple[int, ...] = ()
    """Blocks, from the first to the last, read side by side as channels (`width` of each) in place
    of the neck. Empty reads the neck's output."""
    pixel_mean: ChannelStatistics | None = None
    """What is taken from the pixels; empty takes SAM's own with `weights`, or B-mode's where the
    tower is trained here."""
    pixel_std: ChannelStatistics | None = None
    """What the pixels are then divided by; empty as above."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Blocks that are read, counted from 0; none where the neck is."""
        return tuple(layer % self.layers for layer in self.feature_layers)

    @property
    def num_channels(self) -> int:
        """Channels of a cell of SAM's own grid, all layers together."""
        return self.width * len(self.read_layers) if self.read_layers else self.out_channels

    @property
    def norm_eps(self) -> float:
        """Epsilon of the LayerNorms: 1e-6 as Meta builds SAM, torch's own where it is trained."""
        return 1e-6 if self.weights else 1e-5

    @model_validator(mode="after")
    def _check(self) -> "SamConfig":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"sam.image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"sam.width {self.width} is no multiple of heads {self.heads}")
        _check_layers("sam.feature_layers", self.feature_layers, self.layers)
        _check_statistics("sam", self.pixel_mean, self.pixel_std)
        return self


_SHAPE = ("image_size", "patch_size", "width", "layers")


@cache
def _architecture(name: str) -> dict[str, int]:
    """The shape that open_clip's own file gives an architecture; read without importing torch."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model_configs"
    path = folder / f"{name}.json"
    if path.parent != folder or not path.is_file():
        raise ValueError(
            f"clip.source {name!r} is no architecture of open_clip; "
            "python -c 'import open_clip; print(open_clip.list_models())' lists them"
        )
    vision = json.loads(path.read_text(encoding="utf-8"))["vision_cfg"]
    if not isinstance(vision.get("layers", 0), int):
        raise ValueError(
            f"clip.source {name!r} is a ResNet, which has no patches; choose a vision transformer"
        )
    shape = {key: vision[key] for key in _SHAPE if key in vision}
    if "timm_model_name" not in vision:
        shape["head_width"] = vision.get("head_width", 64)  # open_clip's own default
    return shape


def _check_layers(name: str, given: tuple[int, ...], num_layers: int) -> None:
    """Refuse layers that do not exist, come twice or are out of order."""
    if not all(-num_layers <= layer < num_layers for layer in given):
        raise ValueError(f"{name} {list(given)} are outside the {num_layers} layers")
    counted = [layer % num_layers for layer in given]
    if counted != sorted(set(counted)):
        raise ValueError(f"{name} {list(given)} must rise and name each layer once")


def _check_statistics(
    part: str, mean: ChannelStatistics | None, std: ChannelStatistics | None
) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"{part}.pixel_mean and {part}.pixel_std go together; give both or none")
    if std is not None and min(std) <= 0:
        raise ValueError(f"{part}.pixel_std {list(std)} must be above 0")


class BlendFusion(ModelPart):
    """LLaVA-Ultra's fusion: `alpha * P1(F1) + (1 - alpha) * P2(F2)`, alpha learned."""

    type: Literal["blend"] = "blend"
    alpha: Literal["scalar", "channel", "token"] = "scalar"
    """What one alpha belongs to. The paper does not say; a scalar is the plainest reading."""
    alpha_init: float = Field(default=0.5, gt=0, lt=1)
    """Start value; alpha is the sigmoid of a free parameter and stays inside (0, 1)."""


class ConcatFusion(ModelPart):
    """Eagle's fusion: channel concatenation, then one projector."""

    type: Literal["concat"] = "concat"


class LayerMergeFusion(ModelPart):
    """COMM's fusion (arXiv 2310.08825): a learned sum over layers, then both streams in one.

    It merges `clip.feature_layers` and, where they are given, `sam.feature_layers`. One layer is
    allowed, since an ablation counts down to it, but it has to be named.
    """

    type: Literal["layer_merge"] = "layer_merge"


class ClipOnlyFusion(ModelPart):
    """The CLIP stream alone."""

    type: Literal["clip_only"] = "clip_only"


class SamOnlyFusion(ModelPart):
    """The SAM stream alone."""

    type: Literal["sam_only"] = "sam_only"


FusionConfig = Annotated[
    BlendFusion | ConcatFusion | LayerMergeFusion | ClipOnlyFusion | SamOnlyFusion,
    Field(discriminator="type"),
]


class AdaptiveSampling(ModelPart):
    """Weighted scores over a study's images, distilled, then the best `num_selected`.

    The paper names a feature score, an attention score, their weighting and a distillation; the
    equations could not be found. Ours stand in `llava_ultra.sampling`.
    """

    type: Literal["adaptive"] = "adaptive"
    num_selected: int = Field(default=1, ge=1)
    """Images kept per study (m)."""
    balance: float = Field(default=0.8, ge=0, le=1)
    """Weight of the attention score against the feature score while training."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of both sides of the distillation."""
    distillation_weight: float = Field(default=1.0, ge=0)
    """Weight of the distillation loss in the training loss."""
    grounding_weight: float = Field(default=0.2, ge=0)
    """Weight of the grounding loss, which teaches the attention score to tell a study's own text
    from those of the other studies in a worker's share of the step; 0 leaves it to the answer loss
    alone."""
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


class LanguageConfig(ModelPart):
    """A decoder-only language model: a folder or hub id, or a small Llama of our own."""

    source: str = ""
    """Folder or hub id for `AutoModelForCausalLM`, copied once by `bootstrap`; of the fields below,
    only `context_length` counts then. Empty trains the small Llama below."""
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

    @model_validator(mode="after")
    def _check(self) -> "LanguageConfig":
        if not self.source and self.hidden_size % (2 * self.num_heads):  # rotary pairs of channels
            raise ValueError(
                f"language.hidden_size {self.hidden_size} is no multiple of twice the num_heads "
                f"{self.num_heads}"
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
    """Names that get no adapter though they match: those of towers that a language model of others
    brings along."""


class ModelConfig(ModelPart):
    """All of LLaVA-Ultra."""

    clip: ClipConfig = ClipConfig()
    sam: SamConfig = SamConfig()
    fusion: FusionConfig = BlendFusion()
    sampling: SamplingConfig = AdaptiveSampling()
    language: LanguageConfig = LanguageConfig()
    lora: LoraSettings = LoraSettings()
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
        return self

    @property
    def num_tokens(self) -> int:
        """Fused tokens per image (P)."""
        return self.clip.num_tokens

    @property
    def sam_channels(self) -> int:
        """Channels of a SAM token after pixel-unshuffle (C2)."""
        return self.sam.num_channels * (self.sam.grid // self.clip.grid) ** 2


class PretrainConfig(ModelPart):
    """How long and how fast a part is pretrained."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    max_examples: int = Field(default=20_000, ge=1)
    """Examples held in memory; the first ones are taken (one at 192 px is 0.44 MB)."""
    seed: int = 0


class ClipPretrainConfig(PretrainConfig):
    """CLIP pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)


class SamPretrainConfig(PretrainConfig):
    """SAM pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)


class LanguagePretrainConfig(PretrainConfig):
    """Language model pretraining."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    hint_tokens: int = Field(default=36, ge=0)
    """Most tokens of hints where the images' tokens will stand; 0 gives none."""
    hint_rate: float = Field(default=0.85, ge=0, le=1)
    """Share of the rows that get hints; the others keep what the words alone tell."""
    hint_noise: float = Field(default=0.3, ge=0)
    """Standard deviation of the noise on the hints, in units of the word vectors' own."""
