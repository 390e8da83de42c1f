"""How DeepSpeed's ZeRO spreads the memory of a training over GPUs.

The bytes of a parameter are those of DeepSpeed's own estimator
(`estimate_zero2_model_states_mem_needs`), which itself cannot be asked, because it takes every
parameter as trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_ultra.parameters.precision_names import Precision

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
    """Bytes on each GPU of a training."""

    zero_stage: int
    num_gpus: int
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments and the float32 copy that DeepSpeed steps."""
    activations: int

    @property
    def total(self) -> int:
        """All of it; CUDA's context and the allocator's gaps come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    parts: Sequence[Part],
    *,
    precision: Precision,
    zero_stage: int,
    num_gpus: int,
    largest_layer: int,
    activations: int,
) -> TrainingMemory:
    """Bytes on each GPU under ZeRO (Rajbhandari et al., arXiv 1910.02054).

    A trained parameter has 4 bytes of weight, 4 of gradient, 4 of DeepSpeed's copy and 8 of AdamW's
    moments. Stage 1 spreads copy and moments over the GPUs, stage 2 the gradients too, stage 3 also
    all weights, of which a GPU then gathers one layer at a time.

    Args:
        parts: the model's; those that training does not load are left out.
        precision: of frozen weights.
        zero_stage: 1 to 3; a road trains with 1 or 2.
        num_gpus: how many share.
        largest_layer: parameters of the largest layer.
        activations: bytes that a GPU's own studies take; ZeRO does not spread them.
    """
    loaded = [part for part in parts if part.name in TRAINED_PARTS]
    frozen, trained = (sum(getattr(p, key) for p in loaded) for key in ("frozen", "trainable"))
    weights = frozen * BYTES[precision] + trained * 4
    if zero_stage == 3:
        weights = _share(weights, num_gpus) + largest_layer * BYTES[precision]
    gradients = trained * 4
    return TrainingMemory(
        zero_stage=zero_stage,
        num_gpus=num_gpus,
        weights=weights,
        gradients=_share(gradients, num_gpus) if zero_stage >= 2 else gradients,
        optimizer=_share(trained * (4 + 8), num_gpus),
        activations=activations,
    )


def _share(size: int, num_gpus: int) -> int:
    return -(-size // num_gpus)
