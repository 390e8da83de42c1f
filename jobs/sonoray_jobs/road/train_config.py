"""How LLaVA-Ultra is trained: the section `train` of a road.

It stands alone because a training worker needs this section and not the road: with the road it
would import what reads DICOM, draws phantoms and checks API keys.
"""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from llava_ultra.config import MatmulPrecision
from llava_ultra.cost.zero import Offload
from llava_ultra.parameters.precision_names import Precision
from sonoray.config.model import Config


class TrainStage(Config):
    """One stage of training."""

    name: str
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    lora: bool = False
    """Whether the language model's adapters learn too; fusion and sampler always do."""


class TrainConfig(Config):
    """How LLaVA-Ultra is trained."""

    stages: tuple[TrainStage, ...] = (
        TrainStage(name="align", epochs=4, learning_rate=2e-3),
        TrainStage(name="instruct", epochs=8, learning_rate=2e-3, lora=True),
    )
    """LLaVA's two stages: align the connector, then instruct with LoRA."""
    studies_per_step: int = Field(default=16, ge=1)
    """Global batch size, in studies."""
    micro_studies: int = Field(default=0, ge=0)
    """Most studies that a worker computes at once; 0 takes its whole share of a step. Smaller parts
    take less memory and give the same losses and gradients, up to rounding."""
    micro_tokens: int = Field(default=0, ge=0)
    """Most tokens of images, questions and answers that the decoder reads at once; 0 sets no limit.
    A longer study is a part of its own."""
    activation_checkpointing: bool = False
    """Whether the decoder keeps what goes into each layer alone and computes the rest anew in the
    backward pass: a fraction of the memory, for about a third more time."""
    only: dict[str, str] = Field(default_factory=dict)
    """Labels that a training study must have, as in {organ = "breast"}; empty takes all."""
    max_studies: int = Field(default=0, ge=0)
    """Most training studies, the first of the dataset; 0 takes all."""
    hold_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classes that nothing learns from, by label, as in {pathology = ["malignant"]}: studies with
    one of these values are left out of training and of the parts' pretraining, and so are all turns
    of that topic. A text that names a class all the same is refused."""
    site_cue: bool = False
    """Whether every question, in training and evaluation, begins with the examination site."""
    closed_first: bool = False
    """Whether a report is asked for after the study's closed questions, in training with the
    archive's answers, in evaluation and service with the model's own: `sonoray.study.prompt`."""
    turns_per_epoch: int = Field(default=0, ge=0)
    """Turns asked of each study in an epoch, in a cycle through all it has; 0 asks all. A step
    costs what its turns cost, so that fewer turns buy more steps."""
    num_workers: int = Field(default=2, ge=1)
    min_workers: int = Field(default=0, ge=0)
    """Fewest workers with which the training goes on: where a worker or node is lost it goes on
    with those that there is room for, and takes more, up to `num_workers`, when there is room
    again. 0: always `num_workers`, which Ray waits for."""
    collective_timeout_s: float = Field(default=600, gt=0)
    """How long a worker waits for the others before it fails and the group starts again from the
    last checkpoint; on GPUs the process ends without a message of ours."""
    cpus_per_worker: float = Field(default=0.5, gt=0)
    """Logical CPUs of a worker."""
    data_cpus: float = Field(default=0, ge=0)
    """Logical CPUs kept for each worker's loading actor. It reads a step in some 10 ms, so 0, on
    whatever is idle, serves a machine that is not full."""
    gpus_per_worker: float = Field(default=0, ge=0)
    feature_noise: float = Field(default=0, ge=0)
    """Standard deviation of Gaussian noise on the features while training. The towers' channels are
    standardised, so 1 doubles their variance. It is the augmentation that cached features allow."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: what is spread over the workers. Nothing at 0; the optimiser's state at
    1; the gradients of what learns too at 2; at 3 all weights, for a decoder that no device holds:
    then the questions of a study share no reading, and parts of a step are refused."""
    zero_whole_below: int = Field(default=100_000, ge=0)
    """At stage 3, parameters of at most so many values stay whole on every worker."""
    offload: Offload = "none"
    """What lies in the host's memory: the optimiser's state, or at stage 3 the weights as well."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of a stage's steps in which the rate rises; it then falls as a half cosine."""
    clip_norm: float = Field(default=1.0, gt=0)
    max_failures: int = Field(default=2, ge=0)
    """How often Ray Train restarts after a lost worker before it gives up."""
    max_skipped: int = Field(default=5, ge=0)
    """Steps in a row whose loss or gradient is not finite that are skipped; one more ends the
    training."""
    save_every: str = Field(
        default="10 minutes",
        pattern=r"^[1-9]\d* (steps|minutes)$",
        examples=["50 steps", "10 minutes"],
    )
    """How often a checkpoint is saved within an epoch, as in `50 steps` or `10 minutes`. The end of
    every epoch is saved too."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint of the last stage the training ends with: the last one, or that of the
    lowest validation loss."""
    validate_every: str = Field(
        default="never",
        pattern=r"^(never|epoch|[1-9]\d* steps)$",
        examples=["never", "epoch", "200 steps"],
    )
    """How often the model is judged on the validation split while it trains: `never`, `epoch`, or
    as in `200 steps`; and at the end of every stage. It costs a forward pass each."""
    validation_studies: int = Field(default=64, ge=0)
    """Most studies of the validation split that judge it, the first of the dataset; 0 takes all."""
    patience: int = Field(default=0, ge=0)
    """Validations in a row without a lower loss that end a stage early; 0 never does."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that stay while the training goes."""
    precision: Precision = "float32"
    """`bfloat16` keeps frozen weights and activations in bfloat16 and what learns in float32: half
    the memory of a large decoder. A model answers in the precision of its training."""
    matmul_precision: MatmulPrecision = "highest"
    """How exactly float32 matrices are multiplied."""
    deterministic: bool = False
    """Whether only operations run that repeat to the bit on a GPU too, where they are slower. On
    CPUs all do."""
    seed: int = 0
    variant: str = Field(default="", pattern=r"^[\w.\-]*$", examples=["second-try"])
    """A name for what no setting says, as code of your own: another name is another training."""
    resume: str = Field(default="", pattern=r"^[\w.\-]*$", examples=["phantom-3f2a"])
    """Name of an unfinished training to go on with, of this configuration or one that differs in
    `allow_changed`. The outcome is a training of its own, and later steps need the same value."""
    allow_changed: tuple[str, ...] = ()
    """Settings in which `resume` may differ from what the training was begun with, as in
    ["train.stages.1.epochs"]; `--allow-changed` adds one."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if not self.stages:
            raise ValueError("train.stages is empty; give at least one stage")
        if len({stage.name for stage in self.stages}) < len(self.stages):
            raise ValueError("train.stages repeat a name; give each its own")
        for earlier, later in pairwise(self.stages):
            if earlier.lora and not later.lora:  # its checkpoints would lack the adapters
                raise ValueError(
                    f"train.stages {later.name!r} has lora = false after {earlier.name!r} with "
                    "lora = true; LoRA once on stays on: set lora = true, or reorder the stages"
                )
        if self.validate_every == "never" and (self.keep == "best" or self.patience):
            raise ValueError(
                f"train.keep {self.keep!r} and train.patience {self.patience} need validations, "
                "and train.validate_every is 'never'; set it to 'epoch'"
            )
        if self.zero_stage == 3 and (self.micro_studies or self.micro_tokens):
            raise ValueError(
                "train.zero_stage 3 with train.micro_studies or train.micro_tokens: a worker has "
                "no whole parameter to add up the gradients of parts in; set both to 0 and lower "
                "train.studies_per_step, or set train.zero_stage to 2"
            )
        if self.offload != "none" and self.zero_stage < (3 if self.offload == "all" else 1):
            raise ValueError(
                f"train.offload {self.offload!r} with train.zero_stage {self.zero_stage}: ZeRO "
                "keeps the optimiser's state from stage 1 on and the weights at stage 3; raise "
                'train.zero_stage, or set train.offload to "none"'
            )
        if self.min_workers > self.num_workers:
            raise ValueError(
                f"train.min_workers {self.min_workers} is more than train.num_workers "
                f"{self.num_workers}; lower it, or raise num_workers"
            )
        if self.studies_per_step < self.num_workers:
            raise ValueError(
                f"train.studies_per_step {self.studies_per_step} is less than num_workers "
                f"{self.num_workers}; every worker needs a study in every step"
            )
        return self
