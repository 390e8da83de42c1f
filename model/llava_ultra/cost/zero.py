"""How DeepSpeed's ZeRO spreads the memory of a training over GPUs.

The bytes of a parameter are those of DeepSpeed's own estimator
(`estimate_zero2_model_states_mem_needs`), which itself cannot be asked, because it takes every
parameter as trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llava_ultra.parameters.precision_names import Precision

Offload = Literal["none", "optimizer", "all"]
"""What of a training lies in the host's memory: the optimiser's state, or the weights as well."""
BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
TRAINED_PARTS = ("fusion", "sampler", "language model", "LoRA")
"""What a training worker loads; the towers' features are read from the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part's parameters."""

    name: str
    parameters: int
    trainable: int
    frozen: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Bytes on each GPU of a training, and in the host's memory for it."""

    zero_stage: int
    num_gpus: int
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments and, from stage 1 on, the float32 copy that DeepSpeed steps."""
    activations: int
    host: int = 0
    """What is offloaded; not on the GPU."""

    @property
    def total(self) -> int:
        """All on the GPU; CUDA's context and the allocator's gaps come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    parts: Sequence[Part],
    *,
    precision: Precision,
    zero_stage: int,
    num_gpus: int,
    largest_layer: int,
    activations: int,
    offload: Offload = "none",
) -> TrainingMemory:
    """Bytes on each GPU under ZeRO (Rajbhandari et al., arXiv 1910.02054).

    A trained parameter has 4 bytes of weight, 4 of gradient, 4 of DeepSpeed's copy and 8 of AdamW's
    moments. Stage 0 spreads nothing and makes no copy. Stages 1 and 2 spread copy and moments over
    the GPUs, stage 3 also gradients and all weights, of which a GPU then gathers one layer at a
    time. At stage 2 the gradients are spread too, but not while activations are alive.

    Args:
        parts: the model's; those that training does not load are left out.
        precision: of frozen weights.
        zero_stage: 0 to 3.
        num_gpus: how many share.
        largest_layer: parameters of the largest layer.
        activations: bytes that a GPU's own studies take; ZeRO does not spread them.
        offload: what lies in the host's memory, as far as the stage can.
    """
    loaded = [part for part in parts if part.name in TRAINED_PARTS]
    frozen, trained = (sum(getattr(p, key) for p in loaded) for key in ("frozen", "trainable"))
    weights, host = frozen * BYTES[precision] + trained * 4, 0
    if zero_stage == 3:
        shared, weights = _share(weights, num_gpus), largest_layer * BYTES[precision]
        if offload == "all":
            host += shared
        else:
            weights += shared
    gradients = trained * 4  # added up here (`llava_ultra.steps`), before stage 2 spreads them
    if zero_stage == 3:
        gradients = _share(gradients, num_gpus)
    optimizer = _share(trained * (4 + 8), num_gpus) if zero_stage else trained * 8
    if zero_stage and offload != "none":
        host += optimizer + _share(trained * 4, num_gpus)  # the gradients that AdamW reads there
        optimizer = 0
    return TrainingMemory(
        zero_stage=zero_stage,
        num_gpus=num_gpus,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        host=host,
    )


def _share(size: int, num_gpus: int) -> int:
    return -(-size // num_gpus)
