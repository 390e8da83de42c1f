"""Settings of text to mask. Torch stays out: a road's configuration is read without it."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from llava_ultra.pretrain.pretrain_config import PretrainConfig
from llava_ultra.towers.tower_config import ModelPart

PromptName = Literal["words", "boxes", "points", "none"]
"""What tells the mask decoder which part of a picture is meant: the decoder's state of an
instruction, a box around it, a point inside of it, or nothing."""

PROMPTS: tuple[PromptName, ...] = get_args(PromptName)


class Instruction(ModelPart):
    """Words that ask for a part of a picture, and which part that is."""

    text: str = Field(min_length=1)
    level: int = Field(default=0, ge=0, le=255)
    """Value of the mask's pixels that are meant; 0: all that are not background."""
    where: dict[str, str] = Field(default_factory=dict)
    """Labels of the study or image that make it true, as in {echogenicity = "hypoechoic"}; where
    one has another value there is nothing to outline, and the mask is empty."""


class SegmentationConfig(PretrainConfig):
    """How masks are learned from instructions (`sonoray segment`)."""

    steps: int = Field(default=1500, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    instructions: tuple[Instruction, ...] = Field(
        default=(Instruction(text="分割病灶。"),), min_length=1
    )
    """What is asked for. With one alone the words say nothing that the picture does not."""
    prompts: tuple[PromptName, ...] = Field(default=PROMPTS, min_length=1)
    """What the decoder learns to be prompted with, a step each in turn: `words`, `boxes`,
    `points`, `none`. Each that is listed is judged."""
    written_for: str = ""
    """A question that the model answers about the image first, as in `请描述这组超声图像。`: what
    it writes stands before the instruction. Empty: the instruction alone."""
    layer: int = -1
    """Layer of the decoder whose state behind the instruction is read; -1 is the last one."""
    tokens: int = Field(default=2, ge=1)
    """Prompt tokens that a state becomes."""
    hidden: int = Field(default=128, ge=1)
    """Width of the network between."""
    width: int = Field(default=64, ge=8)
    """Width of the mask decoder; 256 in the published SAM."""
    heads: int = Field(default=4, ge=1)
    """Its attention heads; 8 in the published SAM."""
    depth: int = Field(default=2, ge=1)
    """Its layers."""
    noise: float = Field(default=0.3, ge=0)
    """Standard deviation of what is added to standardised features and states while it learns."""
    unit: Literal["known", "mm", "pixels"] = "known"
    """Of diameters and areas: `known` takes millimetres where an image's spacing is known, and
    pixels elsewhere; `mm` refuses images without spacing."""

    @model_validator(mode="after")
    def _check(self) -> "SegmentationConfig":
        if self.width % 8 or self.width % (2 * self.heads):
            raise ValueError(
                f"segment.width {self.width} must be a multiple of 8 and of twice segment.heads "
                f"{self.heads}"
            )
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError(f"segment.prompts {list(self.prompts)} repeat one; list each once")
        texts = [each.text for each in self.instructions]
        if len(set(texts)) < len(texts):
            raise ValueError(f"segment.instructions {texts} repeat one; list each once")
        return self

    @property
    def levels(self) -> tuple[int, ...]:
        """The mask values that instructions ask for by themselves, each once."""
        return tuple(dict.fromkeys(each.level for each in self.instructions if each.level))
